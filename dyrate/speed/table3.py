"""Table III at the paper's real shapes: its printed latencies beside measured ones, FLOPs from the ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyrate.cost.shapes import LLAVA
from dyrate.paper import published
from dyrate.paper.published import PublishedRow
from dyrate.speed import costs
from dyrate.speed.documents import BenchDocument, Load, Timing

ORIGINAL, DYRATE = "Original", "DyRate"
SCOPE: costs.Scope = "cached"
"""What the percentages count: the whole generation."""


@dataclass(frozen=True)
class Table3Row:
    """A printed row, a measured one, or both; of several measured ones, the first has the printed one."""

    printed: PublishedRow | None
    timing: Timing | None = None
    flops: float | None = None
    """In percent of the unpruned model's."""
    per_token: float | None = None
    """Milliseconds per token in percent of the unpruned model's on the same engine."""
    whole: float | None = None
    """The same of the time end to end."""

    @property
    def printed_share(self) -> str | None:
        """The printed latency in percent of the printed unpruned one."""
        if self.printed is None:
            return None
        rows = {row.name: row for row in published.table3() if row.group == self.printed.group}
        mine, whole = (row.values["latency_ms"] for row in (self.printed, rows[ORIGINAL]))
        return f"{100 * float(mine) / float(whole):.1f}" if mine and whole else None


@dataclass(frozen=True)
class Table3Group:
    """A document's contenders under one load, beside the printed rows of the model that has its shape."""

    bench: BenchDocument
    load: Load
    lines: tuple[Table3Row, ...]

    @property
    def text_tokens(self) -> int:
        """t: tokens of the prompt that are not visual."""
        return self.load.prompt - self.bench.sizes.vision.patches


def row_name(bench: BenchDocument, timing: Timing) -> str | None:
    """Return the printed row that a contender stands beside, whatever its engine; None where there is none.

    DyRate's row has a trained predictor's own rates, or those that one chose on average and that are
    replayed; rates given by hand, and predictors that drop nothing, are none of it.
    """
    method = timing.method.settings if timing.method else {"name": "none"}
    name = {
        "none": ORIGINAL,
        "fastv": "FastV(K={layer},R={rate})",
        "vtw": "VTW(K={layer},R=1)",
        "replay": DYRATE if bench.replayed is not None else "",
        "dyrate": "" if timing.overhead else DYRATE,
    }.get(method["name"], "")
    wanted = name.format(layer=method.get("layer"), rate=method.get("rate"))
    return wanted if any(wanted == row.name for row in _rows(bench)) else None


def groups(benches: Sequence[BenchDocument]) -> tuple[tuple[Table3Group, ...], tuple[Table3Group, ...]]:
    """Return the tables: per document its smallest batch, and its other ones, small batches and long answers
    first; only where a contender other than the unpruned model has a printed row.
    """
    first: list[Table3Group] = []
    others: list[Table3Group] = []
    for bench in benches:
        loads = [load for load in bench.loads if _reduced(bench, load)]
        for load in sorted(loads, key=lambda load: load.prompt):
            smallest = min(other.batch for other in bench.loads)
            (first if load.batch == smallest else others).append(_group(bench, load))
    for tables in (first, others):
        tables.sort(key=lambda group: (group.load.batch, -group.load.new_tokens))
    return tuple(first), tuple(others)


def missing(groups: Sequence[Table3Group]) -> tuple[str, ...]:
    """Return the models of the paper's Table III that no group is about."""
    return tuple(model for model in LLAVA if all(group.bench.shape_name != model for group in groups))


def _reduced(bench: BenchDocument, load: Load) -> bool:
    return any(row_name(bench, timing) not in (None, ORIGINAL) for timing in bench.under(load))


def _group(bench: BenchDocument, load: Load) -> Table3Group:
    timings = bench.under(load)
    lines: list[Table3Row] = []
    for row in _rows(bench):
        mine = [timing for timing in timings if row_name(bench, timing) == row.name]
        lines += [_line(bench, row if i == 0 else None, timing) for i, timing in enumerate(mine)]
        if not mine:
            lines.append(Table3Row(row))
    return Table3Group(bench, load, tuple(lines))


def _rows(bench: BenchDocument) -> Iterator[PublishedRow]:
    return (row for row in published.table3() if row.group == bench.shape_name)


def _line(bench: BenchDocument, row: PublishedRow | None, timing: Timing) -> Table3Row:
    whole = costs.same(bench, timing)
    if whole is None:
        return Table3Row(row, timing)
    share = costs.ratio(timing.per_token_ms, whole.per_token_ms)
    return Table3Row(
        row,
        timing,
        costs.percent(bench, timing, whole, SCOPE),
        None if share is None else 100 * share,
        100 * timing.whole_ms.median / whole.whole_ms.median,
    )
