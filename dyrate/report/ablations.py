"""The ablations as tables: pruning strategies, decoding strategies, and the parts of DyRate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import cost, published
from dyrate.report.cells import (
    Column,
    Row,
    Table,
    TextColumn,
    compared,
    fill,
    finish,
    merge,
    with_texts,
)
from dyrate.report.measured import Measurement
from dyrate.report.paired import Answers
from dyrate.report.tables import by_model, column_of, paired_rows, standing_for
from dyrate.study import Study

DYRATE = "dyrate"
DECODINGS = {"greedy": "Greedy", "beam-2": "Beam-2", "beam-5": "Beam-5", "top_p": "top_p"}
FLOPS = TextColumn("flops_percent", "FLOPs", "% of unpruned, ↓", "flops_percent", "b")
VARIED = (
    TextColumn("varied", "Varied", "against the default"),
    TextColumn("value_here", "Value", "here"),
    TextColumn("value_default", "Value", "default"),
)
UNNAMED = "The paper does not say of which model its ablations are."
STRATEGY_NOTES = {
    "a": f"{UNNAMED} 105.57 and 105.00, here under NoCaps, are what Table II prints for "
    f"{published.TABLE1_MODEL} under Flickr30k.",
}
DECODING_NOTES = {
    "m": f"{UNNAMED} Its rows are all of DyRate; what decoding does without it, it does not print."
}
# A recipe's keys as the paper writes them; `rates` would be taken for the method's field of that name.
SYMBOLS = {"budget_weight": "lambda", "rates": "K_r"}


def strategy_table(study: Study, measurements: Sequence[Measurement]) -> Table:
    """What is pruned where: the paper's FixedPrune (FP) and DepthBasedPrune (DP) beside the other methods."""
    rows = [
        m
        for m in measurements
        if m.group == "strategy" or (m.job is not None and "strategy" in m.job.method.published)
    ]
    columns = _columns(study, rows, {"nocaps": "nocaps_cider"})
    mine = standing_for(study, published.TABLE1_MODEL, rows)
    pairs = paired_rows(study, "strategy", mine, published.strategy())
    extra = [m for m in mine if m not in pairs.values()]
    groups = [(_beside(mine), merge(columns, published.strategy(), pairs, extra, measurements))]
    groups += [
        (f"On {name}", merge(columns, [], {}, others, measurements))
        for name, others in by_model(rows, except_for=mine)
    ]
    return finish(
        Table(
            "ablation_strategy",
            "Ablation: strategy",
            "Which tokens are pruned, and when",
            columns,
            tuple(
                (
                    title,
                    tuple(
                        with_texts(
                            row,
                            (FLOPS,),
                            {"flops_percent": cost.percent(row.measurement, "nocaps", measurements)},
                        )
                        for row in found
                    ),
                )
                for title, found in groups
            ),
            {**STRATEGY_NOTES, "b": cost.note("nocaps", measurements)},
            (FLOPS,),
        )
    )


def decoding_table(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Decoding strategies, with DyRate and without, so that their own effect can be told from DyRate's."""
    asked = [m for m in measurements if m.group == "decoding"]
    keys = {(m.model, m.label) for m in asked}
    names = {name for m in asked for name in m.result["benchmarks"]}
    rows = [m for m in measurements if (m.model, m.label) in keys and m.group in ("main", "decoding")]
    columns = tuple(
        column
        for column in _columns(study, rows, {"nocaps": "nocaps_cider"})
        if column.benchmark in names or column.published
    )
    mine = [m for m in standing_for(study, published.TABLE1_MODEL, rows) if m.method == DYRATE]
    pairs: dict[str, Measurement] = {}
    for m in mine:
        if (name := m.result["decoding"]["name"]) in DECODINGS:
            pairs.setdefault(DECODINGS[name], m)
    groups = [(_beside(mine), merge(columns, published.decoding(), pairs, [], measurements))]
    for model, others in by_model([m for m in rows if m not in pairs.values()]):
        for label in dict.fromkeys(m.label for m in others):
            same = [m for m in others if m.label == label]
            groups.append((f"{label} on {model}", merge(columns, [], {}, same, measurements)))
    return finish(
        Table(
            "ablation_decoding",
            "Ablation: decoding",
            "Greedy search, beams and sampling",
            columns,
            tuple((title, tuple(found)) for title, found in groups),
            DECODING_NOTES,
        )
    )


def predictor_table(study: Study, measurements: Sequence[Measurement], answers: Answers) -> Table:
    """One DyRate row per thing varied, with differences to the model's default DyRate, paired."""
    rows = [
        m for m in measurements if m.job and m.job.predictor and m.group in ("main", "budget", "predictor")
    ]
    defaults = {model: found[0] for model, found in by_model(m for m in rows if m.group == "main")}
    rows = [m for m in rows if m.model in defaults and m.decoding == defaults[m.model].decoding]
    ours = [m for m in rows if m.group == "predictor"] or rows
    names = {name for m in ours for name in m.result["benchmarks"]}
    columns = tuple(column for column in _columns(study, rows, {}) if column.benchmark in names)
    groups = []
    for model, found in by_model(rows):
        default = defaults[model]
        lines = [_against(fill(columns, None, m, measurements), m, default, columns, answers) for m in found]
        groups.append((f"On {model}, against {default.label}", tuple(lines)))
    return finish(
        Table(
            "ablation_predictor",
            "Ablation: predictor",
            "What DyRate is made of",
            columns,
            tuple(groups),
            {},
            VARIED,
            "Each row is the default DyRate with one thing changed, on the benchmarks below.",
            "the default DyRate of the same model",
        )
    )


def _against(
    row: Row, m: Measurement, default: Measurement, columns: Sequence[Column], answers: Answers
) -> Row:
    """The row with what it varies, and with differences to the default instead of to the unpruned model."""
    changed = {} if m is default else changes(m, default)
    texts = {
        "varied": ", ".join(changed) or "nothing: the default",
        "value_here": ", ".join(here for here, _ in changed.values()),
        "value_default": ", ".join(there for _, there in changed.values()),
    }
    cells = tuple(
        replace(
            cell,
            measured=compared(
                cell.measured, None if m is default else answers.difference(m, default, column.benchmark)
            ),
        )
        if cell.measured
        else cell
        for column, cell in row.pairs(columns)
    )
    return with_texts(replace(row, cells=cells), VARIED, texts)


def changes(m: Measurement, default: Measurement) -> dict[str, tuple[str, str]]:
    """What differs between two DyRate rows, as {what: (here, in the default)}: fields and recipe keys.

    A key that one recipe leaves out is printed as "default": its value is the recipe's own.
    """
    mine, theirs = (_settings(found) for found in (m, default))
    changed = {
        key: (str(mine.get(key, "default")), str(theirs.get(key, "default")))
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    }
    if changed:
        return changed
    names = [found.job.method.predictor if found.job else None for found in (m, default)]
    return {"predictor": (str(names[0]), str(names[1]))}


def _settings(m: Measurement) -> Mapping[str, Any]:
    recipe = m.job.predictor.recipe if m.job and m.job.predictor else {}
    fields = {key: value for key, value in m.result["method"].items() if key not in ("name", "predictor")}
    return {**{SYMBOLS.get(key, key): value for key, value in recipe.items()}, **fields}


def _columns(study: Study, rows: Iterable[Measurement], printed: Mapping[str, str]) -> tuple[Column, ...]:
    """The benchmarks that some row has, and those with a printed figure."""
    measured = {name for m in rows for name in m.result["benchmarks"] if name in BENCHMARKS}
    order = [*study.benchmarks, *(name for name in BENCHMARKS if name not in study.benchmarks)]
    return tuple(
        replace(column_of(name), published=printed.get(name), note="a" if name in printed else "")
        for name in order
        if name in measured or name in printed
    )


def _beside(mine: Sequence[Measurement]) -> str:
    names = " and ".join(dict.fromkeys(m.model for m in mine))
    return f"As printed, beside it {names}" if names else "As printed"
