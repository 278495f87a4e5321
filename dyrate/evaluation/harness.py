"""One call of lmms-eval for all benchmarks, and what is taken from it: samples and aggregates."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tqdm import tqdm

from dyrate.evaluation.captions import caption_scoring, image_scores
from dyrate.evaluation.harness_tasks import LoadedTask, harness_arguments
from dyrate.evaluation.intervals import RESAMPLES
from dyrate.evaluation.results import BenchmarkResult
from dyrate.evaluation.scoring import Sample, sample_scores, scores


@dataclass(frozen=True)
class Answered:
    """A benchmark's samples and lmms-eval's aggregate of each metric."""

    samples: list[Sample]
    aggregates: Mapping[str, float]


def run_harness(model: Any, tasks: Sequence[LoadedTask]) -> dict[str, Answered]:
    """Let lmms-eval ask `model` (an `lmms`) all tasks and score its answers; by benchmark name."""
    from lmms_eval import evaluator
    from lmms_eval.api import task
    from lmms_eval.tasks import TaskManager

    captions = [loaded.task for loaded in tasks if loaded.benchmark.kind == "caption"]
    aggregations = [function for of in captions for function in of.aggregation().values()]
    with (
        harness_arguments() as arguments,
        caption_scoring(aggregations) if captions else contextlib.nullcontext(),
        contextlib.redirect_stdout(io.StringIO()),  # its caption metrics and MMBench print their progress
        patch.object(evaluator, "tqdm", _no_bar),
        patch.object(task, "tqdm", _no_bar),
    ):
        found = evaluator.simple_evaluate(
            model=model,
            tasks=[loaded.task for loaded in tasks],
            task_manager=TaskManager("ERROR", include_defaults=False),  # else it reads all 1,600 task files
            bootstrap_iters=0,
            log_samples=True,
            cli_args=arguments,
            verbosity="ERROR",
            process_docs_parallel=1,
        )
    return {
        loaded.benchmark.name: _answered(loaded, found["samples"][loaded.name], found["results"][loaded.name])
        for loaded in tasks
    }


def score_given(tasks: Sequence[LoadedTask], answers: Mapping[str, Sequence[str]]) -> dict[str, Answered]:
    """Score given answers, by task name and document, as `run_harness` scores a model's."""
    from lmms_eval.api.model import lmms

    class Lookup(lmms):  # type: ignore[misc]
        """Answers without looking."""

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Look each answer up by task and document."""
            return [answers[task][doc_id] for _, _, _, doc_id, task, _ in (one.args for one in requests)]

        loglikelihood = generate_until_multi_round = generate_until

        def clean(self) -> None:
            """There is no model to let go of."""

    return run_harness(Lookup(), tasks)


def scored(loaded: LoadedTask, found: Answered, seed: int) -> BenchmarkResult:
    """A benchmark's scores with intervals, from its answers alone: no difference, no tokens."""
    benchmark = loaded.benchmark
    return {
        "task": loaded.name,
        "samples": len(found.samples),
        "units": len({(sample.stratum, sample.unit) for sample in found.samples}),
        "primary": benchmark.primary.name,
        "scores": scores(benchmark, found.samples, found.aggregates, seed, RESAMPLES),
        "difference": None,
        "visual_tokens": None,
    }


def ask(model: Any, loaded: LoadedTask) -> list[str]:
    """Let `model` (an `lmms`) answer one task's questions as `run_harness` would; nothing is scored."""
    answers: list[str] = model.generate_until(questions_of(model, loaded))
    return answers


def questions_of(model: Any, loaded: LoadedTask) -> Sequence[Any]:
    """lmms-eval's instances of one task, whose rows `model` (an `lmms`) then knows."""
    from lmms_eval.api import task

    model.task_dict[loaded.name] = loaded.task.dataset
    with patch.object(task, "tqdm", _no_bar):
        loaded.task.build_all_requests()
    instances: Sequence[Any] = loaded.task.instances
    return instances


def _no_bar(*arguments: Any, **keywords: Any) -> Any:
    """A progress bar that stays away: lmms-eval draws two per task beside the model's own."""
    return tqdm(*arguments, **{**keywords, "disable": True})


def _answered(
    loaded: LoadedTask, logged: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> Answered:
    samples = []
    for line in logged:
        row = loaded.rows[line["doc_id"]]
        unit, stratum, numbers = sample_scores(loaded.benchmark, line)
        category = line["doc"].get(loaded.benchmark.category)
        samples.append(
            Sample(
                doc_id=row,
                unit=str(row) if unit is None else unit,
                stratum=stratum,
                prompt=line["arguments"][0],
                answer=line["filtered_resps"][0],
                references=references(loaded, line),
                scores=numbers,
                category="" if category is None else str(category),
            )
        )
    if loaded.benchmark.kind == "caption":
        columns = image_scores([s.references for s in samples], [s.answer.strip() for s in samples])
        for index, sample in enumerate(samples):
            sample.scores = {name: float(column[index]) for name, column in columns.items()}
    aggregates = {
        key.partition(",")[0]: float(value)
        for key, value in results.items()
        if isinstance(value, int | float) and "_stderr" not in key
    }
    return Answered(samples, aggregates)


def references(loaded: LoadedTask, line: Mapping[str, Any]) -> list[str]:
    """The references as the metric sees them: the captions, the annotators' answers, or the one answer.

    `line` is of lmms-eval's log: `doc`, `target`, and what each metric says.
    """
    for metric in line.values():
        if loaded.benchmark.kind == "caption" and isinstance(metric, Mapping) and "pred" in metric:
            return [str(text) for text in metric["answer"]]
    answers = line["doc"].get("answers")
    if answers is not None:
        return [str(one["answer"] if isinstance(one, Mapping) else one) for one in answers]
    return [str(line["target"])]
