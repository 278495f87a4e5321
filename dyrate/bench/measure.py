"""The measuring itself: warm-ups, rounds in alternating order, clocks read at a synchronised device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch

from dyrate.bench.contenders import CAPTURES, Contender, Generated
from dyrate.bench.limits import synchronise
from dyrate.bench.models import inputs as make_inputs
from dyrate.bench.profile import profiled as look_into
from dyrate.cost.shapes import ModelShape
from dyrate.speed.documents import Load, Profile

_SHARE = 0.3
"""Contenders keep their memory between rounds while together they take no more than this share of it."""


@dataclass
class Timings:
    """One contender under one load, seconds by round."""

    first_token: list[float] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    """Median over a round's decode steps, each synchronised; none where a round makes one token."""
    whole: list[float] = field(default_factory=list)
    """End to end, without synchronising in between."""
    peak_bytes: int | None = None
    """Most memory that was taken at once, weights included, in a generation of its own that is not timed;
    None where the device does not say.
    """
    generated: Generated | None = None
    profiles: tuple[Profile, Profile | None] | None = None
    """What the prompt's pass and the last decode step consist of, in a generation of its own each; where that
    is asked for.
    """


def measure(
    model: Any,
    contenders: Sequence[Contender],
    load: Load,
    *,
    rounds: int,
    warmups: int,
    seed: int,
    done: Callable[[], object],
    prompts: Sequence[dict[str, torch.Tensor]] | None = None,
    profiled: bool = False,
) -> list[Timings]:
    """Return the timings of each contender; `done` is called after each generation.

    `prompts` are the model's inputs, of the load's batch and length, taken in turn by the rounds; by default
    random ones. `profiled`: what the passes consist of, too.

    Rounds go through the contenders forwards and backwards in turn, so that what drifts (clocks, heat, other
    load) falls on all of them alike.
    """
    asked = prompts or [make_inputs(model, load.batch, load.prompt, seed)]
    device = model.device
    timings = [Timings() for _ in contenders]

    def once(contender: Contender, found: Timings | None, number: int = 0) -> None:
        _one_round(model, contender, asked[number % len(asked)], load.new_tokens, device, found)
        done()

    text = ModelShape.of(model.config).text
    row = (load.prompt + load.new_tokens) * text.layers * text.kv_width * model.dtype.itemsize
    held = load.batch * row * sum(contender.fast for contender in contenders)
    crowded = device.type == "cuda" and held > _SHARE * torch.cuda.mem_get_info(device)[1]
    for contender in contenders:
        for _ in range(warmups):
            once(contender, None)
        if crowded:
            _close(contender)
    for number in range(rounds):
        order = list(zip(contenders, timings, strict=True))
        for contender, found in order if number % 2 == 0 else order[::-1]:
            once(contender, found, number)
            if crowded:
                _close(contender)
    for contender in contenders:
        _close(contender)
    if device.type == "cuda":
        for contender, found in zip(contenders, timings, strict=True):
            torch.cuda.reset_peak_memory_stats(device)
            contender.generate(model, asked[0], load.new_tokens, _nothing)
            found.peak_bytes = torch.cuda.max_memory_allocated(device)
            _close(contender)
    if profiled:
        for contender, found in zip(contenders, timings, strict=True):
            found.profiles = look_into(model, contender, asked[0], load.new_tokens)
            _close(contender)
    return timings


def _nothing() -> None:
    pass


def _close(contender: Contender) -> None:
    """Give back what a contender holds, so that the others have the device to themselves."""
    contender.close()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _one_round(
    model: Any,
    contender: Contender,
    asked: dict[str, torch.Tensor],
    new_tokens: int,
    device: torch.device,
    found: Timings | None,
) -> None:
    """Generate twice: synchronised at each step for the steps' times, and once more for the whole.

    A contender that has to capture graphs first does so before the clocks start.
    """
    marks: list[float] = []
    if contender.cold:
        for _ in range(CAPTURES):
            contender.generate(model, asked, new_tokens, _nothing)

    def mark() -> None:
        synchronise(device)
        marks.append(perf_counter())

    synchronise(device)
    started = perf_counter()
    generated = contender.generate(model, asked, new_tokens, mark)
    synchronise(device)
    middle = perf_counter()
    contender.generate(model, asked, new_tokens, _nothing)
    synchronise(device)
    ended = perf_counter()
    if found is None:
        return
    steps = [later - before for before, later in pairwise(marks)]
    found.first_token.append(marks[0] - started)
    if steps:
        found.per_token.append(median(steps))
    found.whole.append(ended - middle)
    found.generated = generated
