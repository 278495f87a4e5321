"""The same answers as lmms-eval logs them, by its own code, and in the sheets that VLMEvalKit writes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openpyxl

from dyrate.evaluation.captions import caption_scoring
from dyrate.evaluation.harness_tasks import LoadedTask, harness_arguments
from dyrate.evaluation.rescoring import questions

STAMP = "20260801_120000"


def lmms_eval_run(tasks: list[LoadedTask], chosen: dict[str, list[str]], output: Path) -> Path:
    """A run of lmms-eval, saved as its command line with `--log_samples` does; returns its folder."""
    from lmms_eval import evaluator
    from lmms_eval.api.model import lmms
    from lmms_eval.loggers import EvaluationTracker
    from lmms_eval.tasks import TaskManager

    class Answering(lmms):
        def generate_until(self, requests: list) -> list[str]:
            return [chosen[one.args[4]][one.args[3]] for one in requests]

        loglikelihood = generate_until_multi_round = generate_until

        def clean(self) -> None: ...

    with ExitStack() as stack:
        stack.enter_context(caption_scoring())
        found = evaluator.simple_evaluate(
            model=Answering(),
            model_args="pretrained=them/theirs-7b",
            tasks=[loaded.task for loaded in tasks],
            task_manager=TaskManager("ERROR", include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            cli_args=stack.enter_context(harness_arguments()),
            datetime_str=STAMP,
            verbosity="ERROR",
        )
    tracker = EvaluationTracker(output_path=str(output))
    tracker.general_config_tracker.model_name_sanitized = "theirs"
    logged = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=logged, datetime_str=STAMP)
    for name, lines in logged.items():
        tracker.save_results_samples(task_name=name, samples=lines)
    return output / "theirs"


def log_of(run: Path, benchmark: str) -> Path:
    return run / f"{STAMP}_samples_{benchmark}_testbed.jsonl"


def sheet(folder: Path, loaded: LoadedTask, given: list[str]) -> Path:
    name = loaded.benchmark.name
    lines = []
    for number, (one, answer) in enumerate(zip(questions(loaded), given, strict=True), 1):
        several = len(one.references) > 1
        line = {
            "index": one.document.get("index", number),
            "question": one.text + (" Please answer yes or no." if name == "mme" else ""),
            "answer": str(list(one.references)) if several else one.references[0].capitalize(),
            "category": one.document.get("category"),
            "image_path": f"images/{one.document.get('question_id')}.png",
            "hint": None,
        }
        lines.append({**line, "prediction": answer})
    return write_sheet(folder / f"T20260801-120000/theirs_{name}.xlsx", lines)


def write_sheet(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    book = openpyxl.Workbook()
    for row in ([*lines[0]], *([*line.values()] for line in lines)):
        book.active.append(row)
    book.save(path)
    (path.parent / "status.json").write_text('{"commit": "e8e78f05", "model_name": "theirs"}')
    return path


def read_sheet(path: Path) -> list[dict[str, Any]]:
    header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]
