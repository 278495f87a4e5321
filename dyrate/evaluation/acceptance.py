"""The acceptance table: do the testbed's benchmarks tell good models from blind ones?

Each model is evaluated unpruned and without visual tokens by the same code as any other job. Beside it stands
what is attainable: the oracle's answers, scored by the same functions, and for captions the score of one
reference against the others; and what can be had without looking: the best constant answer to each kind of
question. A model that does better than that without the image has found a leak in the benchmark. (The
constants are chosen on the samples they are scored on: with few samples, 100 say, chance comes out too high.)
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from dyrate import clip_folder, files, registry
from dyrate.errors import DyrateError
from dyrate.evaluation import eyes
from dyrate.evaluation.answers import read_lines
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.captions import leave_one_out_cider
from dyrate.evaluation.commands import quiet_libraries
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness import score_given
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.results import Result
from dyrate.evaluation.scoring import scores

SCHEMA = "dyrate.acceptance"
BOUNDS = (70.0, 97.0)  # share of the attainable score, in percent
CAPTION_BOUND = 60.0  # share of the leave-one-out CIDEr
BLIND_MARGIN = 3.0  # percent of the attainable score, above chance and half the blind score's interval
_GUESSES: dict[str, Callable[[int], float]] = {  # by number of categories; where constants are a poor guess
    "mmb": lambda _: 25.0,  # prefers one option's text, whatever its letter
    "mme": lambda categories: 75.0 * categories,  # each answer by itself: 50 for accuracy, 25 for pairs
}
_ORACLE = pa.schema([("doc_id", pa.int64()), ("kind", pa.string()), ("answer", pa.string())])
_Line = Mapping[str, Any]  # of that
_SEEN, _BLIND = {"name": "none"}, {"name": "text_only"}
DRAWN = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.testbed)
"""The benchmarks that the testbed has."""
_CONSTANTS = 5  # most frequent oracle answers of a kind that are tried as the one answer to all of it


def run(arguments: argparse.Namespace) -> int:
    """`dyrate testbed accept`: write acceptance.json and .md, print the table; 1 where a bound is missed."""
    files.make_folder(arguments.output)
    quiet_libraries()
    table = accept(arguments.models, arguments.samples, arguments.data, arguments.output)
    text = markdown(table)
    files.write_json(arguments.output / "acceptance.json", table)
    files.write_text(arguments.output / "acceptance.md", text)
    print(text)  # noqa: T201 - the command's output
    return 0 if all(row["passed"] for row in (*table["rows"], *table["eyes"])) else 1


def accept(
    models: Sequence[Path],
    samples: int,
    data: Path,
    output: Path,
    benchmarks: Sequence[str] = DRAWN,
) -> dict[str, Any]:
    """Evaluate the models and return the table; a killed call goes on from the response logs in `output`."""
    chosen = [BENCHMARKS[name] for name in benchmarks]
    tasks = load_tasks(chosen, "testbed", data, samples)
    attainable, chance = _references(tasks, data)
    rows, seeing = [], []
    for path in models:
        model = load(_job(path, _SEEN, samples, data, output, tasks))

        def evaluate(
            method: Mapping[str, Any], path: Path = path, model: Any = model
        ) -> tuple[Evaluation, Result]:
            job = _job(path, method, samples, data, output, tasks)
            return job, evaluate_loaded(job, model, tasks)

        (_, seen), (_, blind) = evaluate(_SEEN), evaluate(_BLIND)
        rows += [_row(seen, blind, name, attainable[name], chance[name]) for name in benchmarks]
        if (path / clip_folder.FOLDER).is_dir():
            seeing.append(eyes.eyes(path, evaluate))
    return {
        "schema": SCHEMA,
        "version": 2,
        "samples": samples,
        "rows": rows,
        "comparisons": _comparisons(rows),
        "eyes": seeing,
    }


def _job(
    path: Path, method: Mapping[str, Any], samples: int, data: Path, output: Path, tasks: Sequence[LoadedTask]
) -> Evaluation:
    return Evaluation(
        model=str(path),
        benchmarks=tuple(loaded.benchmark.name for loaded in tasks),
        output=output / path.name / registry.slug(method),
        method=dict(method),
        study="acceptance",
        data=data,
        samples=samples,
        dtype="float32",
    )


def _references(tasks: Sequence[LoadedTask], data: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Per benchmark: the attainable score, and what is to be had without looking."""
    asked = [loaded for loaded in tasks if loaded.benchmark.kind != "caption"]
    oracle = {loaded.name: _oracle(loaded, data) for loaded in asked}
    best, chance = {}, {}
    if asked:
        best = _scored(asked, {task: [line["answer"] for line in found] for task, found in oracle.items()})
        chance = _scored(asked, _constants(asked, oracle))
    for loaded in tasks:
        name = loaded.benchmark.name
        if loaded.benchmark.kind == "caption":
            best[name] = 100 * leave_one_out_cider(_captions(loaded))
            chance[name] = 0.0
        if name in _GUESSES:
            chance[name] = max(chance[name], _GUESSES[name](_categories(loaded)))
    return best, chance


def _constants(tasks: Sequence[LoadedTask], oracle: Mapping[str, Sequence[_Line]]) -> dict[str, list[str]]:
    """By task: to each question, the constant answer that scores best on its kind of question."""
    tried = [{name: _constant(found, rank) for name, found in oracle.items()} for rank in range(_CONSTANTS)]
    points = [score_given(tasks, answers) for answers in tried]
    chosen = {}
    for loaded in tasks:
        kinds = [line["kind"] for line in oracle[loaded.name]]
        totals: defaultdict[tuple[str, int], float] = defaultdict(float)
        for rank, answered in enumerate(points):
            for kind, sample in zip(kinds, answered[loaded.benchmark.name].samples, strict=True):
                totals[kind, rank] += next(iter(sample.scores.values()))  # the first that lmms-eval gives
        best = {kind: max(range(_CONSTANTS), key=lambda rank: totals[kind, rank]) for kind in set(kinds)}
        chosen[loaded.name] = [tried[best[kind]][loaded.name][index] for index, kind in enumerate(kinds)]
    return chosen


def _categories(loaded: LoadedTask) -> int:
    """Strata of the task's documents: its score sums over them."""
    stratum = loaded.benchmark.stratum
    return len(set(loaded.task.eval_docs_no_media[stratum])) if stratum else 1


def _constant(oracle: Sequence[_Line], rank: int) -> list[str]:
    """To each question, the answer of that rank by frequency within its kind."""
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in oracle:
        counted[line["kind"]][line["answer"]] += 1
    common = {kind: counts.most_common(_CONSTANTS) for kind, counts in counted.items()}
    ranked = {kind: answers[min(rank, len(answers) - 1)][0] for kind, answers in common.items()}
    return [ranked[line["kind"]] for line in oracle]


def _oracle(loaded: LoadedTask, data: Path) -> list[_Line]:
    """By the task's document, what the build's oracle file says: its true answer, and the question's kind."""
    path = data / f"{loaded.benchmark.name}.oracle.parquet"
    found = read_lines(path, _ORACLE, "`dyrate testbed build` writes it beside the benchmark")
    lines = {line["doc_id"]: line for line in found}
    if unknown := [row for row in loaded.rows if row not in lines]:
        raise DyrateError(f"{path}: no answer for row {unknown[0]} of {loaded.benchmark.name}")
    return [lines[row] for row in loaded.rows]


def _captions(loaded: LoadedTask) -> list[list[str]]:
    """Each document's references, as its metric sees them."""
    seen = [loaded.task.process_results(document, [""]) for document in loaded.task.eval_docs_no_media]
    return [next(iter(metrics.values()))["answer"] for metrics in seen]


def _scored(tasks: Sequence[LoadedTask], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Primary scores of given answers, by benchmark."""
    found = score_given(tasks, answers)
    primary = {}
    for benchmark in (loaded.benchmark for loaded in tasks):
        samples, aggregates = found[benchmark.name].samples, found[benchmark.name].aggregates
        scored = scores(benchmark, samples, aggregates, seed=0, resamples=1)
        primary[benchmark.name] = scored[benchmark.primary.name]["value"]
    return primary


def _row(seen: Result, blind: Result, benchmark: str, attainable: float, chance: float) -> dict[str, Any]:
    found = seen["benchmarks"][benchmark]
    score = found["scores"][found["primary"]]
    share = 100 * score["value"] / attainable
    without = blind["benchmarks"][benchmark]["scores"][found["primary"]]
    low, high = without["low"], without["high"]
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    most = chance + half + BLIND_MARGIN / 100 * attainable
    if BENCHMARKS[benchmark].kind == "caption":
        passed, bound = share >= CAPTION_BOUND, f"at least {CAPTION_BOUND:.0f}%"
    else:
        passed, bound = BOUNDS[0] <= share <= BOUNDS[1], f"{BOUNDS[0]:.0f} to {BOUNDS[1]:.0f}%"
    return {
        "model": seen["model"],
        "benchmark": benchmark,
        "metric": found["primary"],
        "samples": found["samples"],
        "score": score["value"],
        "low": score["low"],
        "high": score["high"],
        "attainable": attainable,
        "share": share,
        "blind": without["value"],
        "blind_bound": most,
        "chance": f"{chance:.1f}",
        "bound": bound,
        "passed": passed and without["value"] <= most,
    }


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """On how many benchmarks each model is at least as good as the one named before it."""
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        table.setdefault(row["model"], {})[row["benchmark"]] = row["score"]
    names = list(table)
    return [
        {
            "model": later,
            "than": earlier,
            "at_least_as_good": sum(table[later][name] >= score for name, score in table[earlier].items()),
            "benchmarks": len(table[earlier]),
        }
        for earlier, later in pairwise(names)
    ]


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "| model | benchmark | metric | n | score [95%] | attainable | share | bound | no image | chance "
        "| at most | |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for row in table["rows"]:
        interval = "" if row["low"] is None else f" [{row['low']:.1f}, {row['high']:.1f}]"
        cells = (row["model"], row["benchmark"], row["metric"], str(row["samples"]))
        seen = (f"{row['score']:.1f}{interval}", f"{row['attainable']:.1f}", f"{row['share']:.1f}%")
        blind = (f"{row['blind']:.1f}", row["chance"], f"{row['blind_bound']:.1f}")
        verdict = "pass" if row["passed"] else "FAIL"
        lines.append(f"| {' | '.join((*cells, *seen, row['bound'], *blind, verdict))} |")
    passed = sum(row["passed"] for row in table["rows"])
    lines.append(
        f"\n{passed} of {len(table['rows'])} within their bounds. `chance` is what can be had without "
        "looking: the best constant answer to each kind of question (MMB: one option text preferred "
        "whatever its letter; MME: each answer guessed; captions: 0). The score without the image may exceed "
        f"it by half its interval and {BLIND_MARGIN:.0f}% of the attainable."
    )
    lines += [
        f"{pair['model']} is at least as good as {pair['than']} on {pair['at_least_as_good']} of "
        f"{pair['benchmarks']} benchmarks."
        for pair in table["comparisons"]
    ]
    return "\n".join(lines) + "\n" + (f"\n{eyes.markdown(table['eyes'])}" if table["eyes"] else "")
