"""Checks of the printed tables against themselves."""

from collections.abc import Iterator, Sequence
from itertools import combinations, groupby
from math import log

from dyrate.paper import published
from dyrate.paper.audit.finding import HEADINGS, Finding, Verdict, cell, find, numbers
from dyrate.paper.published import PublishedRow

PATCH = 14
"""Side of a patch of CLIP ViT-L/14, the encoder of these models, in pixels."""
SHARE_METRICS = ("acc", "em")
PRINTED_METRIC = {"mme_score": "Accuracy"}
"""Headings of Table I whose name in our CSV says what they are instead of what is printed."""
CLOSE = 0.1
"""Columns look exchanged if crossing two models' figures brings them this near, in relative terms."""


def bold() -> Iterator[Finding]:
    """Bold stands for the best figure: of the column in Table I, of each model's block in Table II."""
    of_models = [("Table II", rows) for rows in _by_group(published.table2()).values()]
    for where, rows in (("Table I", published.table1()), *of_models):
        for column in rows[0].values:
            for row in rows:
                if column in row.bold:
                    yield _best(where, rows, row, column)


def _best(where: str, rows: Sequence[PublishedRow], row: PublishedRow, column: str) -> Finding:
    better = [other for other in rows if other.number(column) > row.number(column)]
    group = row.group if where == "Table I" else ""
    own = sum(other.group == row.group for other in better)
    cells = (cell(each, column) for each in (row, *better))
    told = [(other.name, other.values[column]) for other in better]
    verdict: Verdict = "inconsistent" if better else "consistent"
    return find("bold", where, cells, verdict, better=told, group=group, own=own)


def repeated() -> Iterator[Finding]:
    """Table III prints Table II's NoCaps scores again; the strategy ablation prints scores of its methods."""
    column = "nocaps_cider"
    table2 = {(row.group, row.name): row for row in published.table2()}
    different = [
        (row, table2[key])
        for row in published.table3()
        if (key := (row.group, row.name)) in table2 and row.values[column] != table2[key].values[column]
    ]
    cells = (cell(row, column) for pair in different for row in pair)
    verdict: Verdict = "inconsistent" if different else "consistent"
    counts = {"different": len(different), "all": len(published.table3())}
    yield find("repeated", "Tables II and III", cells, verdict, **counts)
    yield from _strategy(list(table2.values()), column)
    yield _greedy(list(table2.values()), column)


def _strategy(table2: Sequence[PublishedRow], column: str) -> Iterator[Finding]:
    """Which column of Table II the ablation's unpruned model and FastV come from."""
    ablation = {row.name: row for row in published.strategy()}
    for name, rows in (("LLaVA", ("Original",)), ("FastV", ("FastV(K=3,R=0.5)", "FastV(K=2,R=0.5)"))):
        row = ablation[name]
        same = [
            (other, key)
            for other in table2
            if other.name in rows
            for key, text in other.values.items()
            if text == row.values[column]
        ]
        elsewhere = [cell(other, key) for other, key in same if key != column]
        labelled = [cell(other, key) for other, key in same if key == column]
        verdict: Verdict = "consistent" if labelled else "inconsistent" if elsewhere else "cannot be told"
        cells = (cell(row, column), *elsewhere, *labelled)
        where = "Strategy ablation and Table II"
        yield find("strategy", where, cells, verdict, same=labelled or elsewhere)


def _greedy(table2: Sequence[PublishedRow], column: str) -> Finding:
    """The decoding ablation's greedy row should be DyRate's score somewhere in Table II."""
    greedy = next(row for row in published.decoding() if row.name == "Greedy")
    mine = [row for row in table2 if row.name == "DyRate"]
    same = [
        cell(row, key) for row in mine for key, text in row.values.items() if text == greedy.values[column]
    ]
    cells = (cell(row, column) for row in (greedy, *mine))
    verdict: Verdict = "consistent" if same else "cannot be told"
    return find("greedy", "Decoding ablation and Table II", cells, verdict, same=same)


def exchanged() -> Iterator[Finding]:
    """Two columns whose figures agree across models only if they are crossed in one of the models."""
    blocks = _by_group(published.table2())
    (one, first), (other, second) = blocks.items()
    columns = list(first[0].values)
    for a, b in combinations(columns, 2):
        straight = _distance(first, second, ((a, a), (b, b)))
        crossed = _distance(first, second, ((a, b), (b, a)))
        looks = crossed < CLOSE < straight
        cells = (cell(row, column) for row in (first[0], second[0]) for column in (a, b))
        facts = {"columns": (HEADINGS[a], HEADINGS[b]), "models": (one, other)}
        verdict: Verdict = "inconsistent" if looks else "consistent"
        yield find("exchanged", "Table II", cells, verdict, distances=(straight, crossed), **facts)


def _distance(
    first: Sequence[PublishedRow], second: Sequence[PublishedRow], pairs: Sequence[tuple[str, str]]
) -> float:
    """Mean absolute log ratio; without VTW, whose loss depends on the model's depth."""
    distances = [
        abs(log(row.number(a) / other.number(b)))
        for row, other in zip(first, second, strict=True)
        if not row.name.startswith("VTW")
        for a, b in pairs
    ]
    return sum(distances) / len(distances)


def magnitudes() -> Iterator[Finding]:
    """An accuracy or an exact match is a percentage; a percentage is no count of operations."""
    rows = published.table1()
    for column in rows[0].values:
        metric = PRINTED_METRIC.get(column, column.rpartition("_")[2])
        if not metric.lower().startswith(SHARE_METRICS):
            continue
        printed = numbers(rows, column)
        above = [row for row in printed if row.number(column) > 100]
        cells = (cell(row, column) for row in above)
        facts = {"above": len(above), "printed": len(printed), "metric": metric}
        yield find("magnitude", "Table I", cells, "inconsistent" if above else "consistent", **facts)
    column = "tflops_percent"
    wholes = [row for row in published.table3() if row.number(column) == 100]
    cells = (cell(row, column) for row in wholes)
    yield find("unit", "Table III", cells, "inconsistent" if wholes else "consistent", wholes=len(wholes))


def resolutions() -> Iterator[Finding]:
    """An encoder of 14-pixel patches takes images of a multiple of 14 pixels."""
    rows = published.table1()
    for row in rows:
        side = int(row.resolution)
        if side % PATCH:
            longer = (r.resolution for r in rows if r.resolution.startswith(row.resolution) and r != row)
            near = next(longer, None)
            cells = (f"{row.name}, resolution: {row.resolution}",)
            yield find("resolution", "Table I", cells, "inconsistent", patch=PATCH, side=side, near=near)


def scales() -> Iterator[Finding]:
    """Figures of a column that are rounded otherwise than all others may be of another protocol."""
    rows = published.table1()
    for column in rows[0].values:
        printed = numbers(rows, column)
        digits = [len(str(row.values[column]).partition(".")[2]) for row in printed]
        usual = max(set(digits), key=digits.count)
        odd = [row for row, places in zip(printed, digits, strict=True) if places != usual]
        if odd:
            cells = (cell(row, column) for row in odd)
            facts = {"odd": len(odd), "printed": len(printed), "usual": usual}
            yield find("scale", "Table I", cells, "cannot be told", **facts)


def _by_group(rows: Sequence[PublishedRow]) -> dict[str, tuple[PublishedRow, ...]]:
    return {group: tuple(members) for group, members in groupby(rows, lambda row: row.group)}
