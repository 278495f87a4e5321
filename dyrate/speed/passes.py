"""What the engine's passes consist of, and how much of the bytes' saving the clock shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dyrate.speed import costs
from dyrate.speed.documents import BenchDocument, Profile, Timing

GROUPS = ("attention", "linear layers", "norms, gates, rotary positions", "the rest")
"""Of kernels."""
# Those of `dyrate/kernels/device`, and the libraries' matrix products.
_KERNELS = (
    re.compile(r"_attend|_combine|.*(sdpa|fmha|flash).*"),
    re.compile(r"_by_sums|_by_dots|.*(gemm|gemv|nvjet|cutlass|splitk).*", re.IGNORECASE),
    re.compile(r"_normalise|_gate|_rotate"),
    re.compile(r".*"),
)


@dataclass(frozen=True)
class ProfiledPass:
    """A contender's last decode step under a load, or its prompt's pass."""

    timing: Timing
    groups: tuple[float, ...]
    """Milliseconds in kernels, by `GROUPS`."""
    calls: int

    @property
    def label(self) -> str:
        """Of its bar, two lines."""
        total = sum(self.groups)
        return f"batch {self.timing.batch}: {total:.2f} ms in {self.calls} kernels\n{self.timing.name}"


def group(name: str) -> int:
    """Which of `GROUPS` a kernel is in."""
    return next(number for number, known in enumerate(_KERNELS) if known.fullmatch(name))


def profiled(
    benches: Sequence[BenchDocument], which: Literal["prompt_pass", "decode_step"]
) -> list[ProfiledPass]:
    """The engine's passes of a kind that somebody looked into, by batch."""
    passes = []
    for timing in (timing for bench in benches for timing in bench.rows):
        found: Profile | None = getattr(timing, which)
        if found and timing.engine == "graph" and not timing.overhead:
            groups = [0.0] * len(GROUPS)
            for part in found.parts:
                groups[group(part.name)] += part.milliseconds
            passes.append(ProfiledPass(timing, tuple(groups), sum(part.calls for part in found.parts)))
    return sorted(passes, key=lambda one: one.timing.batch)


@dataclass(frozen=True)
class Saving:
    """How much less a method reads and takes for a token than the unpruned model."""

    bench: BenchDocument
    timing: Timing
    whole: Timing
    of_bytes: float
    """Share of the bytes that a step must read."""
    of_time: float

    @property
    def realised(self) -> float:
        """Share of the bytes' saving that the clock shows."""
        return self.of_time / self.of_bytes


def savings(benches: Sequence[BenchDocument]) -> list[Saving]:
    """The engine's, where the unpruned model was timed under the same load and bytes are a tenth fewer."""
    known = (_saving(bench, timing) for bench in benches for timing in bench.rows)
    return [saving for saving in known if saving and saving.of_bytes >= 0.1]


def _saving(bench: BenchDocument, timing: Timing) -> Saving | None:
    whole = costs.same(bench, timing)
    if not timing.reduces or timing.engine != "graph" or whole is None or whole.method is None:
        return None
    fewer, every = costs.step_bytes(bench, timing), costs.step_bytes(bench, whole)
    share = costs.ratio(timing.per_token_ms, whole.per_token_ms)
    if not fewer or not every or share is None:
        return None
    return Saving(bench, timing, whole, 1 - fewer / every, 1 - share)
