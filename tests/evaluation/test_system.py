"""Systems by lmms-eval's own adapters: a result like any other, and nothing that fails in silence."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow.parquet as pq
import pytest
from lmms_eval.models.simple.instructblip import InstructBLIP
from PIL import Image
from transformers import (
    BertTokenizer,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaTokenizer,
)

from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation import answers, results
from dyrate.evaluation.guards import own_tokenizers
from dyrate.evaluation.harness_adapters import Adapter, AdapterSpec
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.results import Result, ResultFiles
from dyrate.evaluation.sweep import sweep
from dyrate.evaluation.system import System, _after
from dyrate.study import Study
from dyrate.testbed.benchmarks.build import build
from tests.evaluation import stand_in_adapters as stand_ins

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with stand_ins.registered():
        yield


@pytest.fixture(scope="module")
def instructblip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_ins.make_instructblip(tmp_path_factory.mktemp("models") / "instructblip")


@pytest.fixture
def evaluate(data: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(adapter: str = "plain", benchmarks: tuple[str, ...] = ("gqa",), **options: Any) -> Result:
        job = Evaluation.of(
            {
                "model": adapter,
                "adapter": options,
                "benchmarks": benchmarks,
                "data": data,
                "samples": 12,
                "device": "cpu",
                "metrics": "primary",
                "output": tmp_path / "out",
            }
        )
        (outcome,) = sweep([job])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, dict[str, Any]]]:
    """Every request that a stand-in gets."""
    found: list[tuple[str, int, dict[str, Any]]] = []
    run = stand_ins.Plain.generate_until

    def noting(self: Any, requests: list[Any]) -> list[Any]:
        self.calls = found
        return run(self, requests)

    monkeypatch.setattr(stand_ins.Plain, "generate_until", noting)
    return found


@pytest.mark.slow
def test_instructblip_runs_through_lmms_evals_own_adapter(
    instructblip: Path, data: Path, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    given = {"pretrained": str(instructblip)}

    result = evaluate("instructblip", ("gqa", "pope"), arguments=given, cut_prompt=True)

    assert (result["model"], result["method"], result["label"]) == (
        "instructblip",
        {"name": "none"},
        "instructblip",
    )
    assert result["decoding"]["name"] == "greedy"
    assert result["benchmarks"]["gqa"]["samples"] == 12
    assert result["benchmarks"]["gqa"]["visual_tokens"] is None
    assert "shape" not in result
    meta = result["meta"]
    assert meta["adapter"] == {
        "name": "instructblip",
        "class_path": f"{InstructBLIP.__module__}.InstructBLIP",
        "arguments": given,
        "revision": None,
        "trust_remote_code": False,
        "cut_prompt": True,
    }
    assert (meta["dtype"], meta["device"], meta["batch_size"]) == ("float32", "cpu", 1)
    assert {"weights", "data", "code", "answers"} <= meta["hashes"].keys()
    assert meta["versions"]["lmms-eval"]
    files = ResultFiles.beside(tmp_path / "out" / "greedy.json")
    assert results.read(files.result) == result
    found = answers.read(files.answers, result)
    assert (
        len({sample.answer for sample in found["gqa"]}) > 3
    )  # of random weights, but of each question's own
    model = InstructBlipForConditionalGeneration.from_pretrained(instructblip).eval()
    processor = InstructBlipProcessor.from_pretrained(instructblip)
    rows = pq.read_table(data / "gqa.parquet").to_pylist()
    for sample in found["gqa"]:
        image = Image.open(io.BytesIO(rows[sample.doc_id]["image"]["bytes"])).convert("RGB")
        inputs = processor(images=image, text=sample.prompt, return_tensors="pt")
        new = model.generate(**inputs, max_new_tokens=16)[:, inputs["input_ids"].shape[1] :]
        assert sample.answer == processor.batch_decode(new, skip_special_tokens=True)[0].strip()


def test_a_study_shows_it_in_table_1(
    instructblip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(["gqa", "mme"], 4, 0, Path("data/testbed"))
    entry = {"adapter": "instructblip", "arguments": {"pretrained": str(instructblip)}, "cut_prompt": True}
    study = Study.of(
        {
            "study": "small",
            "samples": 4,
            "device": "cpu",
            "models": [{"name": "InstructBLIP-7B", "published": "InstructBLIP (7B)", **entry}],
            "methods": [{"name": "none"}],
            "benchmarks": ["gqa", "mme"],
        }
    )

    (outcome,) = sweep([study.evaluation(job) for job in study.jobs])

    assert not isinstance(outcome, Exception), outcome
    table = table1(study, load(study))
    (row,) = [row for row in table.rows if row.measurement]
    assert [row.printed.title] == ["InstructBLIP (7B)"]
    cells = {column.benchmark: cell for column, cell in row.pairs(table.columns)}
    assert (cells["gqa"].published, cells["gqa"].measured.samples) == ("49.2", 4)
    assert cells["mme"].measured.unit == "points"


def test_instructblips_answers_begin_with_the_prompt_which_is_refused(
    instructblip: Path, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    given = {"pretrained": str(instructblip)}
    with pytest.raises(DyrateError, match=r"begin with the prompt, .* Say `cut_prompt: true`"):
        evaluate("instructblip", arguments=given)

    log = (tmp_path / "out" / "greedy.log.jsonl").read_text().splitlines()
    evaluate("instructblip", arguments=given, cut_prompt=True)

    again = (tmp_path / "out" / "greedy.log.jsonl").read_text().splitlines()
    assert 0 < len(log) < len(again) == 12  # what had been answered was not answered again
    assert again[: len(log)] == log


NAME = "Salesforce/instructblip-vicuna-7b"


@pytest.fixture
def cached(instructblip: Path, tmp_path: Path) -> Path:
    """The hub's cache with that checkpoint in it."""
    folder = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(instructblip, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return folder.parent


def test_without_the_hub_a_second_tokenizer_comes_from_the_cache(cached: Path) -> None:
    offline = {"cache_dir": cached, "local_files_only": True}
    assert type(InstructBlipProcessor.from_pretrained(NAME, **offline).qformer_tokenizer) is LlamaTokenizer

    with own_tokenizers("adapter instructblip"):
        processor = InstructBlipProcessor.from_pretrained(NAME, **offline)

    assert type(processor.tokenizer) is LlamaTokenizer
    assert type(processor.qformer_tokenizer) is BertTokenizer
    assert len(processor.qformer_tokenizer) < len(processor.tokenizer)


def test_a_second_tokenizer_that_is_not_there_is_refused(cached: Path, instructblip: Path) -> None:
    complaint = "^adapter instructblip: .*: its qformer_tokenizer cannot be read from qformer_tokenizer: "
    (snapshot,) = cached.glob("*/snapshots/*")
    shutil.rmtree(snapshot / "qformer_tokenizer")
    for origin in (NAME, str(snapshot)):
        with pytest.raises(DyrateError, match=complaint), own_tokenizers("adapter instructblip"):
            InstructBlipProcessor.from_pretrained(origin, cache_dir=cached, local_files_only=True)


def test_an_adapter_is_asked_what_our_models_are_asked(
    evaluate: Callable[..., Result], asked: list[tuple[str, int, dict[str, Any]]]
) -> None:
    result = evaluate(benchmarks=("gqa", "vizwiz"))

    assert {(task, doc_id) for task, doc_id, _ in asked} == {
        (task, doc_id) for task in ("gqa_testbed", "vizwiz_testbed") for doc_id in range(12)
    }
    for _, _, generation in asked:
        assert generation.pop("until") == ["\n\n"]
        assert generation == {"do_sample": False, "temperature": 0, "num_beams": 1, "max_new_tokens": 16}
    assert result["benchmarks"]["gqa"]["scores"]["exact_match"]["low"] is not None


def test_a_failed_run_goes_on_where_it_stopped(
    evaluate: Callable[..., Result], asked: list[Any], tmp_path: Path
) -> None:
    undisturbed = evaluate()
    log = tmp_path / "out" / "greedy.log.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:7]))
    asked.clear()

    assert evaluate() == undisturbed

    assert log.read_bytes() == whole
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "adapter plain: task gqa_testbed, rows 3: IndexError: no such layer"),
        ("log", "adapter plain: task gqa_testbed, rows 3: Error 'lost' in generating"),
        ("generate", "adapter plain: task gqa_testbed, rows 3: RuntimeError: shapes do not fit"),
        ("sample", "adapter plain: task gqa_testbed, rows 3: generates with do_sample=True, though"),
        ("none", "rows 3: an answer is None, which is no text"),
        ("count", "2 answers to 1 questions"),
    ],
)
def test_what_fails_is_an_error_and_what_was_answered_is_kept(
    evaluate: Callable[..., Result], tmp_path: Path, fault: str, message: str
) -> None:
    with pytest.raises(DyrateError) as failed:
        evaluate(arguments={"fault": fault, "at": 3})

    assert message in str(failed.value)
    assert not (tmp_path / "out" / "greedy.json").exists()
    logged = [json.loads(line) for line in (tmp_path / "out" / "greedy.log.jsonl").read_text().splitlines()]
    assert "" not in [answer for line in logged for answer in line["answers"]]
    assert bool(logged) == (fault != "count")  # which comes with the first


def test_empty_answers_are_told_and_nothing_else_is_refused(evaluate: Callable[..., Result]) -> None:
    from loguru import logger

    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    evaluate(arguments={"fault": "empty", "at": 3})
    logger.remove(sink)
    assert said == ["adapter plain: task gqa_testbed: 1 of 12 answers are empty"]
    with pytest.raises(
        DyrateError, match=r"12 of 12 answers are empty.*remove .*greedy.log.jsonl to have it"
    ):
        evaluate(arguments={"fault": "empty"})


def test_a_prompt_is_cut_off_only_where_it_stands(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    evaluate(arguments={"fault": "echo"}, cut_prompt=True)
    result = results.read(tmp_path / "out" / "greedy.json")
    found = answers.read(tmp_path / "out" / "greedy.answers.parquet", result)["gqa"]
    assert found[5].answer == "What 28 5"
    with pytest.raises(DyrateError, match="but this answer does not begin with its prompt: 'What 28"):
        evaluate(cut_prompt=True)


@pytest.mark.parametrize(
    ("prompt", "answer", "rest"),
    [
        ("Is it?\nSay yes.", "Is it? Say yes. no", " no"),
        ("Is it?", "Is it?", ""),
        ("Is it?", "Is it", None),
        ("Is it?", "It is", None),
        ("a b", " ab c", " c"),
    ],
)
def test_white_space_does_not_hide_a_prompt(prompt: str, answer: str, rest: str | None) -> None:
    assert _after(prompt, answer) == rest


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "instructblp",
            {},
            "adapter instructblp: lmms-eval has none of that name; did you mean 'instructblip'?",
        ),
        ("plain", {"fualt": "x"}, "adapter plain has no argument 'fualt'; did you mean 'fault'?"),
        ("dyrate", {}, "adapter dyrate: is this package's own"),
        ("internvl_hf", {}, "adapter internvl_hf: takes chat messages only"),
        ("plain", {"batch_size": "x"}, "adapter plain: could not be made: ValueError: invalid literal"),
    ],
)
def test_what_lmms_eval_does_not_know_is_one_line(
    evaluate: Callable[..., Result], name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DyrateError) as refused:
        evaluate(name, arguments=arguments)

    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_an_adapter_that_hands_keywords_on_takes_any() -> None:
    system = System(AdapterSpec(name="open", arguments={"max_model_len": 7}), "cpu")

    assert system._inner.kept == {"max_model_len": 7}


def test_remote_code_is_off_unless_it_is_asked_for() -> None:
    assert System(AdapterSpec(name="plain"), "cpu")._inner.trusted is False
    assert System(AdapterSpec(name="plain"), "cpu")._inner.device_given == "cpu"


@pytest.mark.parametrize(
    ("name", "arguments"), [("coded", {}), ("coded", {"swallow": True}), ("careful", {})]
)
def test_remote_code_does_not_run_even_where_the_adapter_wants_it(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    folder = stand_ins.make_coded(tmp_path / "coded")

    with pytest.raises(DyrateError, match=r"brings Python code of its own, .* `trust_remote_code: true` and"):
        System(AdapterSpec(name=name, arguments={"pretrained": str(folder), **arguments}), "cpu")

    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trust_remote_code": True},
            "trust_remote_code: true needs a `revision`. A checkpoint may bring Python",
        ),
        ({"trust_remote_code": True, "revision": "main"}, "revision: 'main' is no commit of 40 hexadecimal"),
        (
            {"arguments": {"trust_remote_code": True}},
            "trust_remote_code stands beside `arguments`, not in it",
        ),
        ({"arguments": {"revision": COMMIT}}, "revision stands beside `arguments`, not in it"),
        ({"argument": {}}, "argument is unknown; did you mean 'arguments'?"),
    ],
)
def test_remote_code_takes_a_pinned_commit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DyrateError) as refused:
        AdapterSpec.of({"name": "careful", **options})

    assert message in str(refused.value)


def test_a_pinned_commit_is_given_as_a_folder_and_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stand_ins.make_coded(tmp_path / "models--owner--coded" / "snapshots" / COMMIT)
    wanted: list[tuple[str, str]] = []

    def download(name: str, revision: str, **_: Any) -> str:
        wanted.append((name, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    spec = {"name": "careful", "arguments": {"pretrained": "owner/coded"}, "revision": COMMIT}

    with pytest.raises(DyrateError, match="brings Python code"):
        System(AdapterSpec.of(spec), "cpu")
    assert not (folder / "ran").exists()
    system = System(AdapterSpec.of({**spec, "trust_remote_code": True}), "cpu")

    assert (folder / "ran").exists()
    assert set(wanted) == {("owner/coded", COMMIT)}
    assert system.provenance["revision"] == COMMIT
    assert system.provenance["arguments"] == {"pretrained": "owner/coded"}


def test_code_from_another_place_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = (stand_ins.make_coded(tmp_path / name) for name in ("pinned", "other"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"configuration', f'"{other}--configuration'))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    spec = {"name": "careful", "arguments": {"pretrained": "owner/coded"}, "revision": COMMIT}

    with pytest.raises(DyrateError, match=r"takes code from .*other, which `revision` does not pin"):
        System(AdapterSpec.of({**spec, "trust_remote_code": True}), "cpu")

    assert not (other / "ran").exists()


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    spec = AdapterSpec(name="plain", arguments={"pretrained": str(tmp_path)})
    with pytest.raises(DyrateError, match=r"adapter plain: no \*.safetensors in .*: save it so, or pin a"):
        System(spec, "cpu")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    spec = AdapterSpec(name="plain", arguments={"pretrained": str(tmp_path)}, revision=COMMIT)
    with pytest.raises(DyrateError, match="only what is on the hub has revisions"):
        Adapter.of(spec).pinned()


@pytest.mark.parametrize("option", [["--method", "vtw"], ["--decoding", "beam-2"]])
def test_neither_method_nor_decoding_goes_with_an_adapter(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "plain", "--adapter", "{}", "--benchmarks", "gqa", "--output", str(tmp_path)]

    assert main(["evaluate", *given, *option]) == 2

    assert f"{option[0]}: " in capsys.readouterr().err
