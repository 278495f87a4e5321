"""Answers of other harnesses: the same row as our own evaluation of the same answers, or one clear error."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dyrate import files
from dyrate.analysis.measurements import load as load_measurements
from dyrate.analysis.tables import table1
from dyrate.errors import DyrateError
from dyrate.evaluation import answers, results
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.rescoring import Given, Question, Reading, assign, questions
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.evaluation.other_harnesses import STAMP, lmms_eval_run, log_of, read_sheet, sheet, write_sheet
from tests.report import fake

NAMES = ("gqa", "sqa", "textvqa", "vqav2", "pope", "mmb", "mme", "nocaps")
SCRIPT = Path(__file__).parents[2] / "examples/external/rescore.py"
HOSTILE = ["<script>alert(1)</script>", "=1+1", "", "two\nlines\u2028and 'quotes\"", "{{ 7*7 }}", "word 1"]
Rescore = Callable[..., results.Result]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rescore", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rescore(script: ModuleType, data: Path) -> Rescore:
    def run(output: Path, given: Mapping[str, Path], *more: str) -> results.Result:
        where = ["--tasks", "testbed", "--data", str(data), "--metrics", "primary", "--output", str(output)]
        named = ["--study", "smoke", "--model", "theirs-7b", "--label", "Their <b>system</b>"]
        script.main([*(f"{name}={path}" for name, path in given.items()), *named, *where, *more])
        return results.read(output / "greedy.json")

    return run


@pytest.fixture(scope="module")
def tasks(data: Path) -> list[LoadedTask]:
    return load_tasks(select(NAMES), "testbed", data, None, primary_only=True)


@pytest.fixture(scope="module")
def chosen(tasks: list[LoadedTask]) -> dict[str, list[str]]:
    """By task, answers of which two in three are right."""

    def answer(index: int, one: Question) -> str:
        return HOSTILE[index // 3 % len(HOSTILE)] if index % 3 == 2 else one.references[0]

    return {loaded.name: [answer(*one) for one in enumerate(questions(loaded))] for loaded in tasks}


@pytest.fixture(scope="module")
def ours(
    checkpoint: Path, data: Path, tasks: list, chosen: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[results.Result, dict]:
    """Our own evaluation, of a model that gives those answers."""
    output = tmp_path_factory.mktemp("ours")
    job = Evaluation(model=str(checkpoint), benchmarks=NAMES, data=data, output=output, metrics="primary")
    asks = DyrateModel.generate_until

    def generate_until(self: DyrateModel, requests: list) -> list[str]:
        asks(self, requests)
        return [chosen[one.args[4]][one.args[3]] for one in requests]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DyrateModel, "generate_until", generate_until)
        result = evaluate_loaded(job, load(job), tasks)
    return result, answers.read(job.files.answers, result)


@pytest.fixture(scope="module")
def logs(tasks: list, chosen: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lmms_eval_run(tasks, chosen, tmp_path_factory.mktemp("logs"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def measured(result: results.Result) -> dict[str, Any]:
    """What the answers alone decide."""
    keys = ("task", "samples", "units", "primary", "scores")
    return {name: {key: found[key] for key in keys} for name, found in result["benchmarks"].items()}


def test_lmms_evals_own_log_gives_the_row_of_our_own_evaluation(
    rescore: Rescore, logs: Path, ours: tuple, tmp_path: Path
) -> None:
    result, given = ours
    theirs = rescore(tmp_path, {name: log_of(logs, name) for name in NAMES})

    assert measured(theirs) == measured(result)
    assert answers.read(tmp_path / "greedy.answers.parquet", theirs) == given  # prompts, too
    assert theirs["benchmarks"]["gqa"]["scores"]["exact_match"]["value"] == pytest.approx(200 / 3)
    source = theirs["meta"]["sources"]["mmb"]
    assert source["sha256"] == files.digest(log_of(logs, "mmb").read_bytes())
    assert (source["harness"], source["date"], source["task"]) == ("lmms-eval", STAMP, "mmb_testbed")
    assert source["model"].endswith("pretrained=them/theirs-7b")


def test_vlmevalkits_sheets_give_the_same_row(
    rescore: Rescore, tasks: list, chosen: dict, ours: tuple, tmp_path: Path
) -> None:
    given = {loaded.benchmark.name: sheet(tmp_path, loaded, chosen[loaded.name]) for loaded in tasks}
    theirs = rescore(tmp_path / "out", given)

    assert measured(theirs) == measured(ours[0])
    source = theirs["meta"]["sources"]["gqa"]
    assert (source["harness"], source["commit"], source["model"]) == ("VLMEvalKit", "e8e78f05", "theirs")
    assert source["date"].startswith("20")


def test_scores_of_the_other_harness_are_not_believed(
    rescore: Rescore, logs: Path, ours: tuple, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    better = [{**line, "exact_match": 1.0} for line in lines_of(log_of(logs, "gqa"))]
    path.write_text("\n".join(map(json.dumps, better)))
    theirs = rescore(tmp_path, {"gqa": path})
    assert theirs["benchmarks"]["gqa"]["scores"] == ours[0]["benchmarks"]["gqa"]["scores"]
    assert theirs["meta"]["sources"]["gqa"]["model"] is None  # nothing beside it says


def test_a_limit_scores_the_samples_that_we_would_ask(
    rescore: Rescore, data: Path, logs: Path, tmp_path: Path
) -> None:
    few = rescore(tmp_path, {"mmb": log_of(logs, "mmb")}, "--samples", "5")
    (task,) = load_tasks(select(["mmb"]), "testbed", data, 5)
    found = answers.read(tmp_path / "greedy.answers.parquet", few)["mmb"]
    assert [sample.doc_id for sample in found] == list(task.rows)
    assert len(found) == 8  # whole rotations


@pytest.mark.slow
def test_the_row_is_in_table_1_of_the_study_that_lists_it(
    rescore: Rescore, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = rescore(Path("theirs"), {name: log_of(logs, name) for name in ("gqa", "mmb")})
    methods = [fake.CONFIG["methods"][index] for index in (0, 2)]
    config = {**fake.CONFIG, "study": "smoke", "models": fake.CONFIG["models"][:1], "methods": methods}
    study = Study.of({**config, "samples": 6, "external": ["theirs/greedy.json"]})
    fake.write_study(study, tmp_path, images=False)
    found = load_measurements(study)

    table = table1(study, found)
    (row,) = dict(table.groups)["On theirs-7b"]
    cells = {column.benchmark: cell.measured for column, cell in zip(table.columns, row.cells, strict=True)}
    assert cells["gqa"].value == result["benchmarks"]["gqa"]["scores"]["exact_match"]["value"]
    assert cells["pope"] is None

    page = report_pages(study, found)["results.html"]
    assert "Their &lt;b&gt;system&lt;/b&gt;" in page
    assert "Their <b>" not in page
    assert "answers by lmms-eval" in page
    assert result["meta"]["sources"]["mmb"]["sha256"] in page


def but(place: int, **values: Any) -> Callable[[list], list]:
    return lambda lines: [{**line, **values} if i == place else line for i, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:3] + lines[4:], r"once; 1 of 12 samples have no answer: rows 3 of the data"),
        (lambda lines: lines[2:5], r"9 of 12 samples have no answer: rows 0, 1, 5, \.\.\. of"),
        (lambda lines: [*lines, lines[4]], r"1 of its 13 answers are to samples that have one .*: line 13"),
        (but(0, doc_id=99), r"1 of its 12 answers are to none of its samples .*: line 1 \(99, .*rows 0 of"),
        (but(0, target="word 7"), r"another split or edition.*: line 1 \(0, 'what is 0\?', 'word 7'\)"),
        (but(5, input="What was 5?"), r"line 6 \(5, 'what was 5\?', 'word 2'\)"),
        (but(1, doc_id="1"), r"line 2: doc_id: '1' should be of the type int"),
        (but(1, filtered_resps=["a", "b"]), r"line 2: filtered_resps: \['a', 'b'\] should be"),
        (but(1, input=None), r"line 2: input: None"),
        (lambda lines: [7, *lines], r"line 1: '7' is no sample of lmms-eval"),
    ],
)
def test_a_log_that_does_not_answer_each_sample_once_is_refused(
    rescore: Rescore, logs: Path, tmp_path: Path, change: Callable, message: str
) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text("\n".join(map(json.dumps, change(lines_of(log_of(logs, "gqa"))))))
    with pytest.raises(DyrateError, match=message) as refused:
        rescore(tmp_path / "out", {"gqa": path})
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gqa", lambda lines: lines[:-1], "1 of 12 samples have no answer: rows 11 of the data"),
        ("gqa", but(2, question="What was 2?"), r"none of its .*: row 4 \('what was 2\?', \('word 2',\)\)"),
        ("gqa", but(2, index=1), "row 4: index 1 is that of row 2, too"),
        ("gqa", but(2, prediction="Failed to obtain answer: OOM"), "in 1 rows, first 4; let it try again"),
        ("gqa", but(2, prediction=2.5), "row 4: prediction: 2.5 should be of the type str"),
        ("gqa", lambda lines: [{"index": 1, "answer": "a"}], "no column 'prediction'; it has index, answer"),
        ("textvqa", but(2, answer="['a', "), "row 4: .* is no list of answers"),
        ("mmb", but(2, index=77), "none of its samples .*'77'"),
        ("mme", but(0, image_path="color/elsewhere.png"), "none of its samples .*'color', 'elsewhere'"),
        ("nocaps", but(0, answer="['another picture']"), "none of its samples .*another picture.*rows 0 of"),
    ],
)
def test_a_sheet_that_does_not_answer_each_sample_once_is_refused(
    rescore: Rescore, tasks: list, chosen: dict, tmp_path: Path, name: str, change: Callable, message: str
) -> None:
    (loaded,) = (loaded for loaded in tasks if loaded.benchmark.name == name)
    path = sheet(tmp_path, loaded, chosen[loaded.name])
    write_sheet(path, change(read_sheet(path)))
    with pytest.raises(DyrateError, match=message) as refused:
        rescore(tmp_path / "out", {name: path})
    assert str(refused.value).startswith(str(path))
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_of_a_harness_is_named(rescore: Rescore, tmp_path: Path) -> None:
    for name, content, message in (
        ("a.csv", b"", r"a\.csv: expected a file of lmms-eval \(\.jsonl\) or VLMEvalKit \(\.xlsx\)"),
        ("a.jsonl", b"{", r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b"\xff", r"a\.jsonl: UnicodeDecodeError"),
        ("a.xlsx", b"PK\x03\x04", r"a\.xlsx: not a spreadsheet"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DyrateError, match=message):
            rescore(tmp_path / "out", {"gqa": path})
    with pytest.raises(DyrateError, match=r"b\.jsonl: no such file"):
        rescore(tmp_path / "out", {"gqa": tmp_path / "b.jsonl"})
    with pytest.raises(DyrateError, match="unknown benchmark 'gqb'"):
        rescore(tmp_path / "out", {"gqb": path})


def test_pope_is_asked_once_for_all_its_categories(script: ModuleType, tmp_path: Path) -> None:
    """VLMEvalKit's POPE names those in which the same is asked of the same image."""
    asked = [Question(i, "Is it?", "yes", ("yes",), {"category": name}) for i, name in enumerate("ab")]
    line = {"index": 1, "question": "Is it?", "answer": "Yes", "category": "a,b", "prediction": "yes"}
    path = write_sheet(tmp_path / "run/pope.xlsx", [line])
    reading = script.vlmevalkit(path, BENCHMARKS["pope"], asked)
    assert [given.sample for given in reading.given] == list(reading.known)


def test_samples_that_look_alike_get_answers_in_order_unless_they_are_scored_together() -> None:
    def task(benchmark: str) -> LoadedTask:
        named = SimpleNamespace(config=SimpleNamespace(task=benchmark))
        return LoadedTask(BENCHMARKS[benchmark], named, range(3), "")

    given = [Given(sample, str(place), "", f"line {place}") for place, sample in enumerate("bba")]
    reading = Reading(["a", "b", "b"], given, {})
    found = assign("file", task("pope"), reading, range(3))
    assert {row: one.answer for row, one in found.items()} == {0: "2", 1: "0", 2: "1"}
    with pytest.raises(DyrateError, match="file: cannot tell apart the rows 1, 2 of mme: b"):
        assign("file", task("mme"), reading, range(3))
