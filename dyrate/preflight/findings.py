"""What a preflight finds, a line each."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

_WIDE = 110


State = Literal["ok", "note", "fails"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: State
    what: str
    found: str
    cure: str = ""
    """What to do about it, unless it is ok."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def table(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the findings as lines of text, each cure below what it cures."""
    findings = list(findings)
    width = max((len(one.what) for one in findings), default=0)
    for one in findings:
        yield from _wrapped(f"{one.state:<7}{one.what:<{width}}  ", one.found)
        if one.cure:
            yield from _wrapped(" " * (width + 9) + "-> ", one.cure)


def _wrapped(head: str, text: str) -> list[str]:
    rest = " " * len(head)
    return textwrap.wrap(text, _WIDE, initial_indent=head, subsequent_indent=rest, break_long_words=False)
