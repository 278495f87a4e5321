"""What a prompt's pass and a decode step consist of: kernels on a GPU, operations on a CPU."""

import re
from collections import Counter
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dyrate.bench.contenders import CAPTURES, Contender
from dyrate.bench.limits import synchronise
from dyrate.errors import DyrateError
from dyrate.speed.documents import KernelTime, Profile, Timing

_SHOWN = 10
_INNERMOST = re.compile("<[^<>]*>")


def profiled(
    model: Any, contender: Contender, asked: dict[str, Tensor], new_tokens: int
) -> tuple[Profile, Profile | None]:
    """Generate, and watch the prompt's pass; once more, and watch the last step, if there is one.

    Raises `DyrateError` where the profiler has seen nothing.
    """
    if contender.cold:
        for _ in range(CAPTURES):
            contender.generate(model, asked, new_tokens, lambda: None)
    prompt = _watched(model, contender, asked, 1, "the prompt's pass")
    step = _watched(model, contender, asked, new_tokens, "a decode step") if new_tokens > 1 else None
    return prompt, step


def _watched(model: Any, contender: Contender, asked: dict[str, Tensor], tokens: int, what: str) -> Profile:
    """Generate so many tokens and watch the pass that makes the last one."""
    device = model.device
    activity, kind = (
        (ProfilerActivity.CPU, "cpu") if device.type == "cpu" else (ProfilerActivity.CUDA, "device")
    )
    watch = profile(activities=[activity])
    marks: list[float] = []

    def mark() -> None:
        synchronise(device)
        if len(marks) == tokens - 1:
            watch.start()
        marks.append(perf_counter())
        if len(marks) == tokens + 1:
            watch.stop()

    mark()
    contender.generate(model, asked, tokens, mark)
    calls, microseconds = Counter[str](), Counter[str]()
    for event in watch.key_averages():
        taken = getattr(event, f"self_{kind}_time_total")
        if taken > 0:
            calls[short(event.key)] += event.count
            microseconds[short(event.key)] += taken
    if not calls:
        raise DyrateError(f"--profile: torch's profiler has seen nothing of {what} on {device}")
    parts = (
        KernelTime(name=name, calls=calls[name], milliseconds=taken / 1e3)
        for name, taken in microseconds.most_common()
    )
    return Profile(milliseconds=1e3 * (marks[-1] - marks[-2]), parts=tuple(parts))


def short(name: str) -> str:
    """Return a kernel's name without return type, namespaces, template arguments and parameters; other names
    as they are.
    """
    if name.startswith("aten::"):
        return name
    plain = name.replace("(anonymous namespace)::", "")
    while (without := _INNERMOST.sub("", plain)) != plain:
        plain = without
    return plain.split("(")[0].split("::")[-1].split(" ")[-1] or name


def listing(what: str, row: Timing, found: Profile) -> str:
    """A pass of a row for people: its longest parts."""
    total = sum(part.milliseconds for part in found.parts)
    lines = [
        f"{what} of {row.label}, batch {row.batch}: {found.milliseconds:.3f} ms, of them "
        f"{total:.3f} in {sum(part.calls for part in found.parts)} calls"
    ]
    for part in found.parts[:_SHOWN]:
        share = part.milliseconds / total
        lines.append(f"{part.milliseconds:9.3f} ms {share:6.1%} {part.calls:5}x {part.name}")
    return "\n".join(lines)
