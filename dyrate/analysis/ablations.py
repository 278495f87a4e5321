"""The ablations as tables: pruning strategies, decoding strategies, and the parts of DyRate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dyrate.analysis import cost
from dyrate.analysis.cells import Column, Table
from dyrate.analysis.measurement import Measured, Measurement
from dyrate.analysis.paired import Answers
from dyrate.analysis.predictor_settings import as_text, without_effect
from dyrate.analysis.tables import Part, column_of, columns_of, laid_out, named
from dyrate.analysis.words import say
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.paper import published
from dyrate.predictor_training.recipe import Recipe
from dyrate.study import Study

DYRATE = "dyrate"
DECODINGS = {"greedy": "Greedy", "beam-2": "Beam-2", "beam-5": "Beam-5", "top_p": "top_p"}
VARIED = (
    Column("varied", "Varied", "against the default", note="a", prose=True),
    Column("value_here", "Value", "here", prose=True),
    Column("value_default", "Value", "default", prose=True),
)
APART = 0.02  # budgets that differ by no more are the same
NOCAPS = {"nocaps": "nocaps_cider"}
# A recipe's keys as the paper writes them; `rates` would be taken for the method's field of that name.
SYMBOLS = {"budget_weight": "lambda", "rates": "K_r"}
DEFAULTS = {SYMBOLS.get(name, name): field.default for name, field in Recipe.model_fields.items()}


def strategy_table(study: Study, measurements: Sequence[Measurement]) -> Table:
    """What is pruned where: the paper's FixedPrune (FP) and DepthBasedPrune (DP) beside the other methods."""
    names, model = named("strategy"), published.TABLE1_MODEL
    rows = [m for m in measurements if m.group == "strategy" or names(m)]
    table = Table(
        "ablation_strategy",
        "Ablation: strategy",
        "Which tokens are pruned, and when",
        columns_of(study, rows, NOCAPS),
        notes={"a": say("strategy_a", model=model), "b": cost.note("nocaps", measurements)},
        text_columns=(cost.flops("flops_percent", "b"),),
    )
    printed = Part(title="As printed", printed=published.strategy(), model=model)
    return laid_out(study, table, rows, (printed, Part()), names)


def decoding_table(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Decoding strategies, with DyRate and without, so that their own effect can be told from DyRate's."""
    asked = [m for m in measurements if m.group == "decoding"]
    keys = {(m.model, m.label) for m in asked}
    benchmarks = {name for m in asked for name in m.result["benchmarks"]}
    rows = [m for m in measurements if (m.model, m.label) in keys and m.group in ("main", "decoding")]
    columns = columns_of(study, rows, NOCAPS)

    def name(m: Measurement) -> str | None:
        papers = m.method == DYRATE and m.origin != "ours"
        return DECODINGS.get(m.result["decoding"]["name"]) if papers else None

    table = Table(
        "ablation_decoding",
        "Ablation: decoding",
        "Greedy search, beams and sampling",
        tuple(column for column in columns if column.benchmark in benchmarks or column.published),
        notes={"m": say("decoding_m")},
    )
    parts = (
        Part(lambda m: False, title="As printed", printed=published.decoding(), model=published.TABLE1_MODEL),
        Part(heading=lambda m: f"{m.label} on {m.model}"),
    )
    return laid_out(study, table, rows, parts, name)


def predictor_table(study: Study, measurements: Sequence[Measurement], answers: Answers) -> Table:
    """One DyRate row per thing varied, with differences to the model's default DyRate, paired."""
    groups = ("main", "budget", "predictor")
    rows = [m for m in measurements if m.job and m.job.predictor and m.group in groups]
    defaults = {m.model: m for m in reversed(rows) if m.group == "main"}
    rows = [m for m in rows if m.model in defaults and m.decoding == defaults[m.model].decoding]
    ours = [m for m in rows if m.group == "predictor"] or rows
    benchmarks = {name for m in ours for name in m.result["benchmarks"]}
    scaled = any(_settings(m)[0].get("estimator") == "scaled_features" for m in rows)

    def varied(at: int) -> Callable[[Measurement], str]:
        def told(m: Measurement) -> str:
            changed = {} if m is defaults[m.model] else changes(m, defaults[m.model])
            values = (", ".join(value[side] for value in changed.values()) for side in (0, 1))
            return (", ".join(changed) or "nothing: the default", *values)[at]

        return told

    def against(benchmark: str, m: Measurement) -> Measured | None:
        score, default = m.score(benchmark), defaults[m.model]
        return score and score.beside(None if m is default else answers.difference(m, default, benchmark))

    table = Table(
        "ablation_predictor",
        "Ablation: predictor",
        "What DyRate is made of",
        tuple(
            replace(column, here=partial(against, column.key))
            for column in columns_of(study, rows, {})
            if column.key in benchmarks
        ),
        notes={"a": say("predictor_a", scaled=scaled, replayed=replayed(rows, answers))},
        text_columns=tuple(replace(column, here=varied(at)) for at, column in enumerate(VARIED)),
        lede=say("predictor_lede"),
        against="the default DyRate of the same model",
    )
    part = Part(heading=lambda m: f"On {m.model}, against {defaults[m.model].label}")
    return laid_out(study, table, rows, (part,))


def replayed(rows: Sequence[Measurement], answers: Answers) -> tuple[str, ...]:
    """What the rows with replayed rates can tell about predicted ones: a text for each that has its like.

    Both budgets of each benchmark, and the paired difference only where these agree: within `APART` in the
    phases that count, prefill alone for questions.
    """
    texts = []
    for m in (m for m in rows if m.result["method"].get("rates") == "schedule"):
        for other in rows:
            if other.model == m.model and set(changes(m, other)) == {"rates"}:
                texts.append(_replayed(m, other, answers))
                break
    return tuple(texts)


def _replayed(m: Measurement, predicted: Measurement, answers: Answers) -> str:
    told, apart = [], []
    for name in (name for name in m.result["benchmarks"] if name in BENCHMARKS and predicted.benchmark(name)):
        mine, theirs = m.budget(name), predicted.budget(name)
        spends = (column_of(name).heading, mine, theirs)
        pairs = [(mine.prefill, theirs.prefill)]
        if BENCHMARKS[name].group == "caption":
            pairs.append((mine.decode, theirs.decode))
        difference = answers.difference(m, predicted, name)
        if difference and all(a is not None and b is not None and abs(a - b) <= APART for a, b in pairs):
            told.append((*spends, difference))
        else:
            apart.append(spends)
    return say("replayed", m=m, predicted=predicted, told=told, apart=apart, within=100 * APART)


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
