"""A method and a decoding strategy that a loaded model answers with, and what came of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyrate.contract import Contract
from dyrate.errors import DyrateError
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.provenance import answering_code
from dyrate.evaluation.visual_tokens import TokenSums
from dyrate.reduction import ReductionMethod
from dyrate.registry import as_spec, load_method


@dataclass
class TaskRecord:
    """What happened while one task was answered."""

    seconds: float = 0.0  # in generation
    generated: int = 0  # answers made now
    reused: int = 0  # answers found in the log of an earlier run
    prompt: str | None = None  # of the first row, as the model reads it
    tokens: list[TokenSums] = field(default_factory=list)  # per batch


@dataclass(eq=False)
class Setting:
    """What to answer with, and the state of it."""

    method: ReductionMethod
    decoding: dict[str, Any]
    log: Path | None
    """File of the response log."""
    code: str
    """Hash of the code behind the answers."""
    others: Sequence[Path] = ()
    """Files of response logs in which others may have answered its questions."""
    batches: slice = field(default_factory=lambda: slice(None))
    """Which of its batches are answered; the answers to the others are empty."""
    records: dict[str, TaskRecord] = field(default_factory=dict)
    """By task."""
    chunk: int | None = None
    """Samples at once, where memory is too short for a batch."""
    tasks: Collection[str] = ()
    """Those that it answers in another setting's turn."""
    early: set[str] = field(default_factory=set)
    """Batches that it answered there."""
    borrowed: float = 0.0
    """Seconds that others spent on it in their turns, less those that it spent on others in its own."""
    error: Exception | None = None
    """What kept it from answering there."""
    errors: dict[str, Exception] = field(default_factory=dict)
    """What ended it there, by task."""

    @classmethod
    def of(
        cls,
        method: str | Mapping[str, Any] = "none",
        decoding: str | Mapping[str, Any] = "greedy",
        log: str | Path | None = None,
    ) -> "Setting":
        """Make one of a method and a decoding strategy, each a name, a spec, or a spec as JSON.

        Raises `DyrateError` for what is unknown or does not fit.
        """
        loaded = load_method(as_spec(method, "method"))
        return cls(
            method=loaded,
            decoding=decoding_spec(as_spec(decoding, "decoding")),
            log=None if log is None else Path(log),
            code=f"{answering_code(loaded.spec())} {loaded.content_hash}",
        )

    def enters(self, depth: int) -> int:
        """Return how many of a model's `depth` layers compute on a prompt what they do without a method, as
        far as the method says.
        """
        if type(self.method).install is not Contract.install:
            return 0
        try:
            return min(self.method.needs(depth).prefill, default=depth)
        except DyrateError:  # which is told when it answers
            return 0
