"""The field of methods that may number the tokens that are left anew."""

from typing import Any

from dyrate.reduction import hyperparameter


def positions_of(default: str, about: str) -> Any:
    """Declare the field `positions`; `about` says whose they are, and since when."""
    return hyperparameter(
        f"RoPE positions of {about}: `original`, or `contiguous` (numbered without gaps)",
        default=default,
        choices=("original", "contiguous"),
    )
