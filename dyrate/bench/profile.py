"""What one decode step consists of, by torch's profiler: kernels on a GPU, operations on a CPU."""

import re
from collections import Counter
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dyrate.bench.contenders import Contender
from dyrate.bench.limits import synchronise
from dyrate.errors import DyrateError
from dyrate.speed.documents import DecodeStep, KernelTime, Timing

_SHOWN = 10
_INNERMOST = re.compile("<[^<>]*>")


def profile_step(model: Any, contender: Contender, asked: dict[str, Tensor], new_tokens: int) -> DecodeStep:
    """Generate, and watch the last step; `new_tokens` is at least 2.

    Raises `DyrateError` where the profiler has seen nothing.
    """
    device = model.device
    activity, kind = (
        (ProfilerActivity.CPU, "cpu") if device.type == "cpu" else (ProfilerActivity.CUDA, "device")
    )
    watch = profile(activities=[activity])
    marks: list[float] = []

    def mark() -> None:
        synchronise(device)
        if len(marks) == new_tokens - 2:
            watch.start()
        marks.append(perf_counter())
        if len(marks) == new_tokens:
            watch.stop()

    if contender.cold:
        contender.generate(model, asked, new_tokens, lambda: None)
    contender.generate(model, asked, new_tokens, mark)
    calls, microseconds = Counter[str](), Counter[str]()
    for event in watch.key_averages():
        taken = getattr(event, f"self_{kind}_time_total")
        if taken > 0:
            calls[short(event.key)] += event.count
            microseconds[short(event.key)] += taken
    if not calls:
        raise DyrateError(f"--profile: torch's profiler has seen nothing of a decode step on {device}")
    parts = (
        KernelTime(name=name, calls=calls[name], milliseconds=taken / 1e3)
        for name, taken in microseconds.most_common()
    )
    return DecodeStep(milliseconds=1e3 * (marks[-1] - marks[-2]), parts=tuple(parts))


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


def listing(row: Timing, step: DecodeStep) -> str:
    """A row's step for people: its longest parts."""
    total = sum(part.milliseconds for part in step.parts)
    lines = [
        f"one decode step of {row.label}, batch {row.batch}: {step.milliseconds:.3f} ms, of them "
        f"{total:.3f} in {sum(part.calls for part in step.parts)} calls"
    ]
    for part in step.parts[:_SHOWN]:
        share = part.milliseconds / total
        lines.append(f"{part.milliseconds:9.3f} ms {share:6.1%} {part.calls:5}x {part.name}")
    return "\n".join(lines)
