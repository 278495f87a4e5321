"""The ablations as tables: pruning strategies, decoding strategies, and the parts of DyRate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dyrate.analysis import cost
from dyrate.analysis.cells import (
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
from dyrate.analysis.measurements import Budget, Measurement, budget
from dyrate.analysis.paired import Answers
from dyrate.analysis.predictor_settings import as_text, without_effect
from dyrate.analysis.tables import by_model, column_of, paired_rows, standing_for
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.paper import published
from dyrate.predictor_training.recipe import Recipe
from dyrate.study import Study

DYRATE = "dyrate"
DECODINGS = {"greedy": "Greedy", "beam-2": "Beam-2", "beam-5": "Beam-5", "top_p": "top_p"}
FLOPS = TextColumn("flops_percent", "FLOPs", "% of unpruned, ↓", "flops_percent", "b")
VARIED = (
    TextColumn("varied", "Varied", "against the default", note="a", prose=True),
    TextColumn("value_here", "Value", "here", prose=True),
    TextColumn("value_default", "Value", "default", prose=True),
)
APART = 0.02  # budgets that differ by no more are the same
IDLE = "Settings without effect on a row are not listed."
SCALED = (
    "scaled_features learns with masks that multiply features, as the paper writes them: a token multiplied "
    "by zero still draws attention, one that is pruned does not."
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
DEFAULTS = {SYMBOLS.get(name, name): field.default for name, field in Recipe.model_fields.items()}


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
                            {"flops_percent": row.why_not("nocaps")},
                        )
                        for row in group
                    ),
                )
                for title, group in groups
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
    mine = [
        m
        for m in standing_for(study, published.TABLE1_MODEL, rows)
        if m.method == DYRATE and m.origin != "ours"
    ]
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
            tuple((title, tuple(group)) for title, group in groups),
            DECODING_NOTES,
        )
    )


def predictor_table(study: Study, measurements: Sequence[Measurement], answers: Answers) -> Table:
    """One DyRate row per thing varied, with differences to the model's default DyRate, paired."""
    rows = [
        m for m in measurements if m.job and m.job.predictor and m.group in ("main", "budget", "predictor")
    ]
    defaults = {model: settings[0] for model, settings in by_model(m for m in rows if m.group == "main")}
    rows = [m for m in rows if m.model in defaults and m.decoding == defaults[m.model].decoding]
    ours = [m for m in rows if m.group == "predictor"] or rows
    names = {name for m in ours for name in m.result["benchmarks"]}
    columns = tuple(column for column in _columns(study, rows, {}) if column.benchmark in names)
    scaled = [SCALED] if any(_settings(m)[0].get("estimator") == "scaled_features" for m in rows) else []
    groups = []
    for model, settings in by_model(rows):
        default = defaults[model]
        lines = [
            _against(fill(columns, None, m, measurements), m, default, columns, answers) for m in settings
        ]
        groups.append((f"On {model}, against {default.label}", tuple(lines)))
    return finish(
        Table(
            "ablation_predictor",
            "Ablation: predictor",
            "What DyRate is made of",
            columns,
            tuple(groups),
            {"a": " ".join((IDLE, *scaled, *replayed(rows, measurements, answers)))},
            VARIED,
            "Each row is the default DyRate with one thing changed, on the benchmarks below. What a row "
            "spends changes with it: its differences are not those at equal budget.",
            "the default DyRate of the same model",
        )
    )


def replayed(rows: Sequence[Measurement], among: Sequence[Measurement], answers: Answers) -> tuple[str, ...]:
    """What the rows with replayed rates can tell about predicted ones: a text for each that has its like.

    Both budgets of each benchmark, and the paired difference only where these agree: within `APART` in the
    phases that count, prefill alone for questions.
    """
    texts = []
    for m in (m for m in rows if m.result["method"].get("rates") == "schedule"):
        for other in rows:
            if other.model == m.model and set(changes(m, other)) == {"rates"}:
                texts.append(_replayed(m, other, among, answers))
                break
    return tuple(texts)


def _replayed(m: Measurement, predicted: Measurement, among: Sequence[Measurement], answers: Answers) -> str:
    told, apart = [], []
    for name in (name for name in m.result["benchmarks"] if name in BENCHMARKS and predicted.benchmark(name)):
        mine, theirs = budget(m, [name], among), budget(predicted, [name], among)
        spends = f"{column_of(name).heading} {_budget(mine)} instead of {_budget(theirs)}"
        pairs = [(mine.prefill, theirs.prefill)]
        if BENCHMARKS[name].group == "caption":
            pairs.append((mine.decode, theirs.decode))
        difference = answers.difference(m, predicted, name)
        if difference and all(a is not None and b is not None and abs(a - b) <= APART for a, b in pairs):
            low, high = difference["low"], difference["high"]
            interval = "" if low is None or high is None else f" ({low:+.1f} to {high:+.1f})"
            told.append(f"{spends}: {difference['value']:+.1f}{interval}".replace("-", "−"))
        else:
            apart.append(spends)
    parts = [f"At the same budget, within {100 * APART:.0f} points: {'; '.join(told)}."] if told else []
    if apart:
        parts.append(
            f"Not at the same budget: {'; '.join(apart)}. There the control cannot answer whether rates that "
            "depend on the input pay."
        )
    what = f"{m.label} replays mean rates; tokens seen, prefill | decode, beside {predicted.label}."
    return " ".join((what, *parts))


def _budget(spent: Budget) -> str:
    shares = (spent.prefill, spent.decode)
    return " | ".join("–" if share is None else f"{100 * share:.0f}%" for share in shares)


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

    Left out are keys without effect here, such as the steps of a ranking that is not learned. A key that one
    recipe does not name has its default, and one without effect on the default DyRate is "–" there.
    """
    (mine, idle), (theirs, idle_there) = (_settings(one) for one in (m, default))
    changed = {}
    for key in dict.fromkeys([*mine, *theirs]):
        here, there = (settings.get(key, DEFAULTS.get(key, "default")) for settings in (mine, theirs))
        there = "–" if key in idle_there else there
        if key not in idle and here != there:
            changed[key] = (as_text(here), as_text(there))
    if changed:
        return changed
    names = [one.job.method.predictor if one.job else None for one in (m, default)]
    return {"predictor": (str(names[0]), str(names[1]))}


def _settings(m: Measurement) -> tuple[Mapping[str, Any], frozenset[str]]:
    """What a row's recipe and method say, and which of the recipe's keys have no effect."""
    recipe = m.job.predictor.recipe if m.job and m.job.predictor else {}
    own = {key: value for key, value in m.result["method"].items() if key not in ("name", "predictor")}
    return {**{SYMBOLS.get(key, key): value for key, value in recipe.items()}, **own}, without_effect(recipe)


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
