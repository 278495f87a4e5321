"""Turn the answers that another harness collected into a result file, scored here: `rescore.py --help`.

Reads lmms-eval's samples (`--log_samples`) and VLMEvalKit's predictions. A third harness is one more function
in READERS: it says which sample each question of the task is, and which each answer is to.
"""

import argparse
import ast
import json
import re
import shlex
import sys
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.evaluation.commands import quiet_libraries
from dyrate.evaluation.decoding import decoding_slug, decoding_spec
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.rescoring import Given, Reading, Row, assign, questions, write
from dyrate.evaluation.results import ResultFiles


def plain(text):
    """A question as both data sets have it; lmms-eval itself takes MME's last sentence off."""
    return " ".join(text.casefold().replace(" please answer yes or no.", "").split())


def value(line, name, kind, place):
    if not isinstance(line.get(name), kind):
        raise DyrateError(f"{place}: {name}: {line.get(name)!r:.80} should be of the type {kind.__name__}")
    return line[name]


def said(path, *names):
    """What a JSON file beside the answers says under some names; nothing where there is no such file."""
    if not path.is_file():
        return dict.fromkeys(names)
    with complaints(str(path)):
        told = json.loads(files.read_bytes(path))
        return {name: told.get(name) for name in names}


def lmms_eval(path, benchmark, asked):
    """`<date>_samples_<task>.jsonl`, a line per document, whose number in the task's data is `doc_id`.

    It holds what was asked (`input`), and what the answer is held against: `target`, or in captioning the
    `answer` of any metric. All three tell the sample.
    """
    caption = benchmark.kind == "caption"
    known = [(q.row, plain(q.text), q.references if caption else q.target) for q in asked]
    texts = {row: text for row, text, _ in known}
    with complaints(str(path)):
        lines = files.read_bytes(path).decode().split("\n")
    given = []
    for number, text in enumerate(lines, 1):
        if not text:
            continue
        place = f"{path}, line {number}"
        line = files.parse_json(text, place)
        if not isinstance(line, dict):
            raise DyrateError(f"{place}: {text!r:.80} is no sample of lmms-eval")
        answer = line.get("filtered_resps")
        if isinstance(answer, list) and len(answer) == 1:  # as versions had it that did not flatten it
            line["filtered_resps"] = answer[0]
        answer = value(line, "filtered_resps", str, place)
        row, prompt = value(line, "doc_id", int, place), value(line, "input", str, place)
        against = value(line, "target", str, place)
        if caption:
            metrics = [metric for metric in line.values() if isinstance(metric, dict) and "pred" in metric]
            against = tuple(map(str, value(metrics[0], "answer", list, place))) if metrics else ()
        text, here = plain(prompt), texts.get(row)
        sample = (row, text if here is None or here not in text else here, against)
        given.append(Given(sample, answer, prompt, f"line {number}"))
    date, _, task = path.stem.partition("_samples_")
    run = said(path.with_name(f"{date}_results.json"), "lmms_eval_version", "date", "config")
    setup, commit = run["config"] or {}, run["lmms_eval_version"]
    source = {
        "harness": "lmms-eval",
        "commit": None if "unknown" in str(commit or "unknown") else commit,
        "date": run["date"] or (date if task else None),
        "task": task or None,
        "model": " ".join(str(setup[key]) for key in ("model", "model_args") if setup.get(key)) or None,
    }
    return Reading(known, given, source)


TELLING = {"mmb": ("index",), "mme": ("category", "image_path"), "pope": ("category",)}
FAILED = "Failed to obtain answer"  # what VLMEvalKit writes in an answer's place


def vlmevalkit(path, benchmark, asked):
    """`<model>_<dataset>.xlsx`: the dataset's columns but the image, and `prediction`.

    `index` is a number of its own but in MMBench: a sample is told by its question and its answers, and by
    the columns of TELLING. POPE asks the same of the same image in several categories; VLMEvalKit asks once,
    and names them all.
    """
    import openpyxl

    caption = benchmark.kind == "caption"
    telling = TELLING.get(benchmark.name, ())
    asking = () if caption else ("question",)
    held = "answers" if benchmark.name == "vizwiz" else "answer"

    def sample(line, references):
        told = (Path(str(line[name])).stem for name in telling)  # an image goes by several paths
        text = (plain(str(line[name])) for name in asking)
        return (*told, *text, tuple(sorted(reference.casefold() for reference in references)))

    known = [
        sample({"image_path": q.document.get("question_id"), **q.document, "question": q.text}, q.references)
        for q in asked
    ]
    with complaints(f"{path}: not a spreadsheet"):
        book = openpyxl.load_workbook(path, read_only=True)
        header, *rows = book.worksheets[0].iter_rows(values_only=True)
        made = book.properties.created
        book.close()
    needed = ("index", "prediction", held, *asking, *telling)
    if missing := [name for name in needed if name not in header]:
        raise DyrateError(f"{path}: has no column {missing[0]!r}; it has {', '.join(map(str, header))}")
    given, failed, first = [], [], {}
    for number, row in enumerate(rows, 2):
        place, line = f"{path}, row {number}", dict(zip_longest(header, row[: len(header)]))
        if not any(line.values()):
            continue
        if first.setdefault(line["index"], number) != number:
            raise DyrateError(f"{place}: index {line['index']!r} is that of row {first[line['index']]}, too")
        line["prediction"] = "" if line["prediction"] is None else line["prediction"]  # so sheets hold it
        answer = value(line, "prediction", str, place)
        failed += [number] if FAILED in answer else []
        prompt = str(line.get("question") or "")
        categories = str(line["category"]).split(",") if benchmark.name == "pope" else [line.get("category")]
        for category in categories:
            told = sample({**line, "category": category}, listed(line[held], place))
            given.append(Given(told, answer, prompt, f"row {number}"))
    if failed:
        raise DyrateError(f"{path}: {FAILED!r} in {len(failed)} rows, first {failed[0]}; let it try again")
    run = path.resolve().parent
    state = said(run / "status.json", "commit", "model_name")
    older = re.fullmatch("T[0-9]{8}_G([0-9a-f]+)", run.name)  # the folder's name had the commit
    source = {
        "harness": "VLMEvalKit",
        "commit": state["commit"] or (older and older[1]),
        "date": made and made.isoformat(),
        "model": state["model_name"],
    }
    return Reading(known, given, source)


def listed(cell, place):
    """A cell's texts: one, or a list as Python writes it, whose entries may be {'answer': text}."""
    if not str(cell).startswith("["):
        return [str(cell)]
    with complaints(f"{place}: {cell!r:.80} is no list of answers"):
        return [str(one["answer"] if isinstance(one, dict) else one) for one in ast.literal_eval(cell)]


READERS = {".jsonl": lmms_eval, ".xlsx": vlmevalkit}


def parser():
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("answers", nargs="+", metavar="BENCHMARK=FILE", help=", ".join(BENCHMARKS))
    found.add_argument("--study", required=True, help="the study whose `external` lists the result")
    found.add_argument("--model", required=True, help="what was asked, as the tables name it")
    found.add_argument("--method", default="external", help="a name that no row of that model has yet")
    found.add_argument("--label", required=True, help="the row, as people read it")
    found.add_argument("--decoding", default="greedy", help="how it was generated")
    found.add_argument("--tasks", default="hub", help="as of `dyrate evaluate`")
    found.add_argument("--data", type=Path, help="as of `dyrate evaluate`")
    found.add_argument("--samples", type=int, help="score those that `dyrate evaluate --samples` would ask")
    found.add_argument("--metrics", choices=["all", "primary"], default="all", help="as of `dyrate evaluate`")
    found.add_argument("--device", default="unknown", help="on which it was generated")
    found.add_argument("--dtype", default="unknown")
    found.add_argument("--output", type=Path, required=True, help="folder of the result and its answers")
    return found


def main(words):
    options = parser().parse_args(words)
    quiet_libraries()
    entries = [entry.partition("=") for entry in options.answers]
    given, sources, tasks = {}, {}, []
    for benchmark, entry in zip(select(name for name, _, _ in entries), entries, strict=True):
        path = Path(entry[2])
        if path.suffix not in READERS:
            raise DyrateError(f"{path}: expected a file of lmms-eval (.jsonl) or VLMEvalKit (.xlsx)")
        where = (options.tasks, options.data)
        (task,) = (whole,) = load_tasks([benchmark], *where, None, options.metrics == "primary")
        if options.samples:
            (task,) = load_tasks([benchmark], *where, options.samples, options.metrics == "primary")
        reading = READERS[path.suffix](path, benchmark, questions(whole))
        given[benchmark.name] = assign(str(path), whole, reading, task.rows)
        digest = files.digest(files.read_bytes(path))
        sources[benchmark.name] = {"file": path.name, "sha256": digest, **reading.source}
        tasks.append(task)
    named = {field.name: getattr(options, field.name, None) for field in fields(Row)}
    command = shlex.join(["python", "examples/external/rescore.py", *words])
    place = ResultFiles(options.output, decoding_slug(decoding_spec(options.decoding)))
    result = write(place, Row(**{**named, "command": command}), tasks, given, sources)
    for name, found in result["benchmarks"].items():
        score = found["scores"][found["primary"]]["value"]
        print(f"{name}: {found['primary']} {score:.2f}, n = {found['samples']}")  # noqa: T201
    print(place.result)  # noqa: T201


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DyrateError as error:
        sys.exit(f"rescore.py: error: {error}")
