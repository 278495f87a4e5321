"""Checks of the printed tables against themselves."""

from collections.abc import Iterator, Sequence
from itertools import combinations, groupby
from math import log

from dyrate.paper import published
from dyrate.paper.audit.finding import HEADINGS, Finding, cell, numbers
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
    if not better:
        evidence = "no other figure of the column is higher"
    else:
        evidence = "higher: " + ", ".join(f"{other.name} {other.values[column]}" for other in better)
        if where == "Table I":
            group = sum(other.group == row.group for other in better)
            evidence += f"; {group or 'none'} of them in its own group, “{row.group}”"
            evidence += "" if group else ", where it is the best"
    return Finding(
        "Bold marks the best of its column",
        where,
        tuple(cell(each, column) for each in (row, *better)),
        "inconsistent" if better else "consistent",
        evidence,
    )


def repeated() -> Iterator[Finding]:
    """Table III prints Table II's NoCaps scores again; the strategy ablation prints scores of its methods."""
    column = "nocaps_cider"
    table2 = {(row.group, row.name): row for row in published.table2()}
    different = [
        (row, table2[key])
        for row in published.table3()
        if (key := (row.group, row.name)) in table2 and row.values[column] != table2[key].values[column]
    ]
    yield Finding(
        "The same score in two tables is the same number",
        "Tables II and III",
        tuple(text for pair in different for text in (cell(row, column) for row in pair)),
        "inconsistent" if different else "consistent",
        f"{len(published.table3()) - len(different)} of {len(published.table3())} NoCaps scores agree",
    )
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
        yield Finding(
            "The strategy ablation's NoCaps score is Table II's NoCaps score of that method",
            "Strategy ablation and Table II",
            (cell(row, column), *elsewhere, *labelled),
            "consistent" if labelled else "inconsistent" if elsewhere else "cannot be told",
            f"the number stands in Table II as {', '.join(labelled or elsewhere)}"
            if same
            else "Table II has no such number",
        )


def _greedy(table2: Sequence[PublishedRow], column: str) -> Finding:
    """The decoding ablation's greedy row should be DyRate's score somewhere in Table II."""
    greedy = next(row for row in published.decoding() if row.name == "Greedy")
    mine = [row for row in table2 if row.name == "DyRate"]
    same = [
        cell(row, key) for row in mine for key, text in row.values.items() if text == greedy.values[column]
    ]
    return Finding(
        "The decoding ablation's greedy score is one of DyRate's in Table II",
        "Decoding ablation and Table II",
        (cell(greedy, column), *(cell(row, column) for row in mine)),
        "consistent" if same else "cannot be told",
        f"it is {', '.join(same)}"
        if same
        else "none of DyRate's figures, on any model and benchmark, is that number; the ablation names no "
        "model and no decoding settings",
    )


def exchanged() -> Iterator[Finding]:
    """Two columns whose figures agree across models only if they are crossed in one of the models."""
    blocks = _by_group(published.table2())
    (one, first), (other, second) = blocks.items()
    columns = list(first[0].values)
    for a, b in combinations(columns, 2):
        straight = _distance(first, second, ((a, a), (b, b)))
        crossed = _distance(first, second, ((a, b), (b, a)))
        looks = crossed < CLOSE < straight
        original = first[0], second[0]
        yield Finding(
            f"{HEADINGS[a]} and {HEADINGS[b]} are in the same order for both models",
            "Table II",
            tuple(cell(row, column) for row in original for column in (a, b)),
            "inconsistent" if looks else "consistent",
            f"mean distance of {one}'s figures from {other}'s, over the methods that keep the image: "
            f"{straight:.0%} as printed, {crossed:.0%} with the two columns exchanged in one of the models",
        )


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
        yield Finding(
            "A share of right answers is at most 100",
            "Table I",
            tuple(cell(row, column) for row in above),
            "inconsistent" if above else "consistent",
            f"{len(above)} of {len(printed)} figures under the heading “{metric}” are above 100"
            + (": they are points of a sum of accuracies" if above else ""),
        )
    column = "tflops_percent"
    wholes = [row for row in published.table3() if row.number(column) == 100]
    yield Finding(
        "The unit of a heading is that of its figures",
        "Table III",
        tuple(cell(row, column) for row in wholes),
        "inconsistent" if wholes else "consistent",
        f"the heading says TFLOPs, but {len(wholes)} rows are 100: percentages of a sum that is not printed"
        if wholes
        else "no row is 100, as percentages of the first would have it",
    )


def resolutions() -> Iterator[Finding]:
    """An encoder of 14-pixel patches takes images of a multiple of 14 pixels."""
    rows = published.table1()
    for row in rows:
        side = int(row.resolution)
        if side % PATCH:
            longer = (r.resolution for r in rows if r.resolution.startswith(row.resolution) and r != row)
            near = next(longer, None)
            hint = f"; with a digit more it would be {near}, as in other rows" if near else ""
            yield Finding(
                f"A resolution is a multiple of the encoder's patch of {PATCH} pixels",
                "Table I",
                (f"{row.name}, resolution: {row.resolution}",),
                "inconsistent",
                f"{side} is not a multiple of {PATCH}{hint}",
            )


def scales() -> Iterator[Finding]:
    """Figures of a column that are rounded otherwise than all others may be of another protocol."""
    rows = published.table1()
    for column in rows[0].values:
        printed = numbers(rows, column)
        digits = [len(str(row.values[column]).partition(".")[2]) for row in printed]
        usual = max(set(digits), key=digits.count)
        odd = [row for row, places in zip(printed, digits, strict=True) if places != usual]
        if odd:
            yield Finding(
                "All figures of a column are rounded alike",
                "Table I",
                tuple(cell(row, column) for row in odd),
                "cannot be told",
                f"{len(odd)} of {len(printed)} figures do not have {usual} decimal{'s' * (usual != 1)} like "
                "the others: they may have been copied from elsewhere, measured by another protocol",
            )


def _by_group(rows: Sequence[PublishedRow]) -> dict[str, tuple[PublishedRow, ...]]:
    return {group: tuple(members) for group, members in groupby(rows, lambda row: row.group)}
