"""The one base class of errors that a user can cause and cure."""


class DyrateError(ValueError):
    """A mistake in the user's input: it names the value, where it came from, and what would be right."""
