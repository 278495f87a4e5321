"""Checks of the printed percentages of FLOPs: which convention, prompt and answer give them, if any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.cost.grid import Array, CountingSetting, Drop, percentages
from dyrate.cost.shapes import LLAVA
from dyrate.paper import published
from dyrate.paper.audit.finding import Finding, Verdict, cell, find
from dyrate.paper.published import PublishedRow

TEXT = np.arange(1.0, 257.0)
"""Values of t that are searched: LLaVA-1.5's prompts have some 40 to 110 tokens beside the image."""
NEW = np.arange(1.0, 513.0)
"""Values of N: answers of one token up to long descriptions."""
CASES = tuple(product(CONVENTIONS, SCOPES))
# K is read as in FastV's code: so many layers see every token.
DROPS = {
    "FastV(K=3,R=0.5)": Drop(3, 0.5),
    "FastV(K=2,R=0.5)": Drop(2, 0.5),
    "VTW(K=16,R=1)": Drop(16, 1.0),
}
STRATEGY_DROP = Drop(3, 0.5)
"""FastV's in the strategy ablation, and that of FixedPrune if it prunes as much: K = 3 is said, R is not."""
PERCENT = "tflops_percent"


@dataclass(frozen=True)
class Search:
    """All settings under which some printed percentages come out together, as far as they were printed."""

    settings: tuple[CountingSetting, ...]
    nearest: CountingSetting
    """The setting whose worst deviation is the smallest."""
    deviation: float
    """That deviation, in points."""

    def __str__(self) -> str:
        if not self.settings:
            return (
                f"none of {len(CASES)} conventions and scopes gives it, with t up to "
                f"{len(TEXT)} and N up to {len(NEW)}; the nearest is {self.deviation:.2f} points off: "
                f"{self.nearest}"
            )
        ways = []
        for convention, scope in CASES:
            fitting = [s for s in self.settings if (s.convention, s.scope) == (convention, scope)]
            if fitting:
                new = [s.new_tokens for s in fitting if s.new_tokens is not None]
                spans = f"t = {_span([s.text_tokens for s in fitting])}"
                spans += f", N = {_span(new)}" if new else ""
                ways.append(f"{convention}, {scope.replace('_', '-')} ({spans})")
        return f"given by {'; '.join(ways)}"


def search(printed: Sequence[tuple[str, Drop, str]]) -> Search:
    """Look for settings under which all (model, drop, percentage as printed) hold at once."""
    settings: list[CountingSetting] = []
    nearest, best = None, np.inf
    for convention, scope in CASES:
        off = [np.abs(_grid(model, drop, convention, scope) - float(text)) for model, drop, text in printed]
        worst: Array = np.max(off, axis=0)
        # A printed value means anything within half a unit of its last decimal.
        near = [each <= half_unit(text) + 1e-9 for each, (_, _, text) in zip(off, printed, strict=True)]
        fits = np.all(near, axis=0)
        settings += [_setting(convention, scope, t, n) for t, n in np.argwhere(fits).tolist()]
        t, n = map(int, np.unravel_index(np.argmin(worst), worst.shape))
        if worst[t, n] < best:
            nearest, best = _setting(convention, scope, t, n), float(worst[t, n])
    assert nearest is not None
    return Search(tuple(settings), nearest, best)


def rates_for(model: str, layer: int, printed: str) -> tuple[float, float] | None:
    """Return the smallest and the largest share R that gives a percentage at prune layer K, over a coarse
    grid of t and N and all conventions and scopes; None if none does.
    """
    # Between neighbouring rates of the coarse grid the percentage moves by about half a point.
    near = max(half_unit(printed), 0.5)
    rates = []
    for rate in np.linspace(0, 1, 101).tolist():
        grids = (
            percentages(LLAVA[model], Drop(layer, rate), *case, TEXT[15::16], NEW[::32]) for case in CASES
        )
        if any((np.abs(grid - float(printed)) <= near).any() for grid in grids):
            rates.append(rate)
    return (min(rates), max(rates)) if rates else None


def half_unit(text: str) -> float:
    """Return half a unit of the last decimal that says something: 0.05 for `57.90`."""
    return float(0.5 * 10 ** -len(text.partition(".")[2].rstrip("0")))


def percentages_of_methods() -> Iterator[Finding]:
    """Each percentage by itself, then all of a model's, then each for both models at once."""
    rows = [row for row in published.table3() if row.name in DROPS]
    for row in rows:
        yield _given("A convention, prompt and answer length give this percentage", [row])
    for model in LLAVA:
        own = [row for row in rows if row.group == model]
        yield _given(f"One setting gives all percentages of {model}", own)
    for name in DROPS:
        pair = [row for row in rows if row.name == name]
        yield _given("One setting gives the percentage that both models have", pair)


def _given(check: str, rows: Sequence[PublishedRow]) -> Finding:
    cells = tuple(cell(row, PERCENT) for row in rows)
    return _searched(check, "Table III", cells, [_printed(row, DROPS[row.name]) for row in rows])


def _printed(row: PublishedRow, drop: Drop) -> tuple[str, Drop, str]:
    return row.group, drop, str(row.values[PERCENT])


def _searched(
    check: str, where: str, cells: tuple[str, ...], printed: Sequence[tuple[str, Drop, str]]
) -> Finding:
    matches = search(printed)
    return Finding(check, where, cells, "consistent" if matches.settings else "inconsistent", str(matches))


def same_for_different_models() -> Iterator[Finding]:
    """Models of 32 and 40 layers cannot share the percentages of methods that begin at a fixed layer."""
    one, other = LLAVA
    rows = {(row.group, row.name): row for row in published.table3()}
    for name, drop in DROPS.items():
        pair = [rows[model, name] for model in (one, other)]
        if pair[0].values[PERCENT] != pair[1].values[PERCENT]:
            continue
        gap = min(float(np.abs(_grid(one, drop, *case) - _grid(other, drop, *case)).min()) for case in CASES)
        allowed = 2 * half_unit(str(pair[0].values[PERCENT]))
        depths = LLAVA[one].text.layers, LLAVA[other].text.layers
        instead = [
            layer
            for layer in range(1, depths[1])
            if search([_printed(pair[0], drop), _printed(pair[1], Drop(layer, drop.rate))]).settings
        ]
        cells = (cell(row, PERCENT) for row in pair)
        verdict: Verdict = "inconsistent" if gap > allowed else "cannot be told"
        facts = {"drop": drop, "depths": depths, "gap": gap, "other": other, "instead": instead}
        yield find("depth", "Table III", cells, verdict, **facts)


def dyrates_percentage() -> Iterator[Finding]:
    """DyRate's layer and rates are not printed: which constant rate its percentage would correspond to."""
    for row in published.table3():
        if row.name != "DyRate":
            continue
        text = str(row.values[PERCENT])
        spans = {layer: rates_for(row.group, layer, text) for layer in (2, 3)}
        verdict: Verdict = "cannot be told" if any(spans.values()) else "inconsistent"
        yield find("own", "Table III", (cell(row, PERCENT),), verdict, spans=spans)


def strategies() -> Iterator[Finding]:
    """FixedPrune with FastV's K and R is FastV; DepthBasedPrune drops no less: are the two exchanged?"""
    rows = {row.name: row for row in published.strategy()}
    column = "flops_percent"
    fastv, fixed, depth = (rows[name] for name in ("FastV", "Ours(FP)", "Ours(DP)"))
    model = next(iter(LLAVA))
    yield _searched(
        "A convention, prompt and answer length give FastV's percentage",
        "Strategy ablation",
        (cell(fastv, column),),
        [(model, STRATEGY_DROP, str(fastv.values[column]))],
    )
    fixed_off, depth_off = (abs(row.number(column) - fastv.number(column)) for row in (fixed, depth))
    nearer = depth_off < fixed_off
    span = rates_for(model, STRATEGY_DROP.layer, str(fixed.values[column]))
    cells = (cell(row, column) for row in (fastv, fixed, depth))
    verdict: Verdict = "inconsistent" if nearer else "consistent"
    facts = {"drop": STRATEGY_DROP, "off": (fixed_off, depth_off), "nearer": nearer}
    yield find("fixed", "Strategy ablation", cells, verdict, span=span, model=model, **facts)


@cache
def _grid(model: str, drop: Drop, convention: str, scope: str) -> Array:
    """The percentage for every t and N, [t, N]; one column where only the prompt counts."""
    return percentages(LLAVA[model], drop, convention, scope, TEXT, NEW[:1] if scope == "prefill" else NEW)


def _setting(convention: str, scope: str, t: int, n: int) -> CountingSetting:
    return CountingSetting(convention, scope, int(TEXT[t]), None if scope == "prefill" else int(NEW[n]))


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
