"""The lmms-eval model: llava_hf's answers without reduction, any batch size, no silent failure."""

import io
import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from threading import current_thread, main_thread
from types import ModuleType
from typing import Any

import pytest
import torch
from lmms_eval.utils import simple_parse_args_string
from PIL import Image

import dyrate.evaluation
from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.requests import Request, batches, colors
from dyrate.predictors import save_predictor
from dyrate.registry import load_method
from tests.evaluation.stand_ins import LAYERS, VISUAL, make_benchmark
from tests.runtime.tiny_predictors import random_predictor

COMPARED = ("gqa", "pope", "nocaps")
TESTBED = [Path(__file__).parents[2] / "models" / name for name in ("testbed-m", "testbed-s")]
FASTV = {"name": "fastv", "layer": 1, "rate": 0.5}


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DyrateModel:
    return DyrateModel(str(checkpoint), batch_size=8, device="cpu")


@pytest.fixture
def requests(model: DyrateModel, data: Path) -> list[Any]:
    return _requests(model, data, ("gqa", "pope"), 10)


def _requests(model: Any, data: Path, benchmarks: tuple[str, ...], samples: int) -> list[Any]:
    """The requests that lmms-eval would make, and the documents where the model looks for them."""
    instances = []
    for loaded in load_tasks(select(benchmarks), "testbed", data, samples):
        loaded.task.set_config("num_fewshot", 0)
        loaded.task.build_all_requests()
        model.task_dict[loaded.name] = loaded.task.dataset
        instances += loaded.task.instances
    return instances


def _answers(model: DyrateModel, requests: list[Any], method: Any = "none", **settings: Any) -> list[str]:
    model.configure(method, **settings)
    return model.generate_until(requests)


@pytest.fixture
def llava_hf(monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = ModuleType("decord")  # a video reader that it imports and these tasks never use
    stub.VideoReader = stub.cpu = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "decord", stub)
    from lmms_eval.models.simple.llava_hf import LlavaHf

    return lambda path: LlavaHf(str(path), device="cpu", device_map="cpu", dtype="float32", batch_size=1)


def _compare(llava_hf: Any, path: Path, data: Path, samples: int) -> None:
    ours = DyrateModel(str(path), batch_size=8, device="cpu")
    mine = ours.generate_until(_requests(ours, data, COMPARED, samples))
    theirs = llava_hf(path)
    assert mine == theirs.generate_until(_requests(theirs, data, COMPARED, samples))
    assert len(mine) == 3 * samples
    assert len(set(mine)) > 3  # else the test could not tell


def test_unpruned_answers_are_those_of_llava_hf(llava_hf: Any, checkpoint: Path, tmp_path: Path) -> None:
    for benchmark in COMPARED:
        make_benchmark(tmp_path, benchmark, 32)
    _compare(llava_hf, checkpoint, tmp_path, 32)


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTBED, ids=lambda path: path.name)
def test_testbed_answers_are_those_of_llava_hf(llava_hf: Any, path: Path, tmp_path: Path) -> None:
    from dyrate.testbed.benchmarks.build import build

    build(COMPARED, 32, seed=0, output_dir=tmp_path)
    _compare(llava_hf, path, tmp_path, 32)


@pytest.mark.parametrize("method", ["none", FASTV])
@pytest.mark.parametrize("decoding", ["greedy", "beam-2", {"name": "top_p", "seed": 3}])
def test_answers_do_not_depend_on_the_batch(
    model: DyrateModel, requests: list[Any], method: Any, decoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = _answers(model, requests, method, decoding=decoding)
    monkeypatch.setattr(model, "batch_size", 1)
    assert _answers(model, requests, method, decoding=decoding) == together


def test_decodings_and_methods_change_answers(model: DyrateModel, requests: list[Any]) -> None:
    told = [
        tuple(_answers(model, requests, method, decoding=decoding))
        for method, decoding in (
            ("none", "greedy"),
            ("none", "beam-5"),
            ("none", "top_p"),
            ("text_only", "greedy"),
        )
    ]
    assert len(set(told)) == 4


def test_a_loaded_model_sweeps_methods_through_lmms_eval(model: DyrateModel, data: Path) -> None:
    from dyrate.evaluation.harness import run_harness

    tasks = load_tasks(select(["gqa"]), "testbed", data, 6)
    model.configure("none")
    first = run_harness(model, tasks)["gqa"]
    model.configure(FASTV)
    run_harness(model, tasks)
    model.configure("none")
    assert run_harness(model, tasks)["gqa"] == first


def test_batches_that_threads_read_are_answered_alike(
    model: DyrateModel, requests: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "batch_size", 2)
    expected = _answers(model, requests, FASTV)
    monkeypatch.setattr(model, "readers", 2)
    by_threads: list[bool] = []
    read = model._read

    def watched(*given: Any) -> Any:
        by_threads.append(current_thread() is not main_thread())
        return read(*given)

    monkeypatch.setattr(model, "_read", watched)
    log = tmp_path / "log.jsonl"
    assert _answers(model, requests, FASTV, log=log) == expected
    assert by_threads == [True] * (len(requests) // 2)
    assert _answers(model, requests, FASTV, log=log) == expected
    first = 2 + 2  # as many are ahead as there are threads, one more, and the one that is asked for
    assert len(by_threads) - len(requests) // 2 <= first, "batches that are in the log were read"
    assert not model._early


def test_batches_are_of_one_task_and_longest_first(model: DyrateModel, requests: list[Any]) -> None:
    asked = [Request.of(one.args) for one in requests]
    layout = batches(asked, model.lengths(asked), 8)
    assert sorted(index for batch in layout for index in batch) == list(range(len(asked)))
    for batch in layout:
        assert len(batch) <= 8
        assert len({asked[index].task for index in batch}) == 1
        lengths = [len(asked[index].context) for index in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_visual_tokens_are_counted_per_layer(model: DyrateModel, requests: list[Any]) -> None:
    _answers(model, requests, FASTV)
    for name in ("gqa_testbed", "pope_testbed"):
        sums = model.records[name].tokens
        assert sum(one["rows"] for one in sums) == 10
        assert sum(one["total"] for one in sums) == 10 * VISUAL
        assert [sum(column) for column in zip(*(one["prefill"] for one in sums), strict=True)] == [
            10 * VISUAL,
            *[10 * VISUAL // 2] * (LAYERS - 1),
        ]
        steps = sum(one["decode_steps"] for one in sums)
        assert 0 < steps <= 10 * 15
        assert sum(one["decode"][0] for one in sums) == pytest.approx(steps * VISUAL)


def test_logged_answers_belong_to_one_predictor(
    model: DyrateModel, requests: list[Any], tmp_path: Path
) -> None:
    """A predictor that was trained anew into the same folder makes new answers."""
    spec = {"name": "dyrate", "predictor": str(tmp_path), "layer": 1}
    reused = []
    for seed in (0, 0, 1):
        save_predictor(random_predictor(seed, layer=1, heads=2), tmp_path, {})
        _answers(model, requests, spec, log=tmp_path / "log.jsonl")
        reused.append(sum(record.reused for record in model.records.values()))
    assert reused == [0, len(requests), 0]


def _limited(model: DyrateModel, monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception) -> list[int]:
    """Let generation fail above a number of rows; returns the sizes that went through."""
    sizes: list[int] = []
    run = model._run

    def limited(setting: Any, questions: Any, new_tokens: int) -> Any:
        if len(questions) > rows:
            raise error
        sizes.append(len(questions))
        return run(setting, questions, new_tokens)

    monkeypatch.setattr(model, "_run", limited)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_batch_is_halved_when_memory_is_short(
    model: DyrateModel, requests: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = _answers(model, requests)
    sizes = _limited(model, monkeypatch, 3, error)
    assert _answers(model, requests) == expected
    assert set(sizes) == {2}  # 8, 4, 2, and no second attempt with 8


def test_a_sample_that_does_not_fit_fails(
    model: DyrateModel, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _limited(model, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        _answers(model, requests)


def test_a_failed_generation_is_never_an_answer(
    model: DyrateModel, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _limited(model, monkeypatch, 0, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        _answers(model, requests)


@pytest.mark.parametrize(
    "arguments",
    [
        "method=fastv,layer=1,rate=0.5,decoding=beam-2",
        'method={"name": "fastv", "layer": 1, "rate": 0.5},decoding={"name": "beam-2"}',
    ],
)
def test_every_hyperparameter_travels_in_model_args(checkpoint: Path, arguments: str) -> None:
    model = DyrateModel.create_from_arg_string(
        f"pretrained={checkpoint},dtype=float32,{arguments}", {"batch_size": "4", "device": "cpu"}
    )
    assert model.method.spec() == FASTV
    assert model.decoding["num_beams"] == 2
    assert model.batch_size == 4


def test_model_args_that_are_parsed_into_a_mapping_do_as_well() -> None:
    parsed = simple_parse_args_string('method={"name": "fastv", "layer": 1, "rate": 0.5},batch_size=2')
    assert set(parsed) == {"method", "batch_size"}


def test_lmms_eval_finds_the_model_by_name() -> None:
    from lmms_eval.models import get_model

    assert get_model("dyrate") is DyrateModel
    assert [entry.value for entry in entry_points(group="lmms_eval.models") if entry.name == "dyrate"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "fastw"}, "unknown reduction method 'fastw'; did you mean 'fastv'"),
        ({"method": "fastv", "layer": 1, "rat": 0.5}, "'fastv' has no field 'rat'; did you mean 'rate'"),
        ({"method": "{"}, "method: '{': not JSON"),
        ({"decoding": "gready"}, "unknown decoding 'gready'"),
    ],
)
def test_unfit_settings_are_refused(model: DyrateModel, settings: dict, message: str) -> None:
    with pytest.raises(DyrateError, match=message):
        model.configure(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained": "no/such/place"}, "--model no/such/place: no such folder"),
        ({"pretrained": "."}, r"--model \.: no \*\.safetensors"),
        ({"dtype": "int8"}, "--dtype 'int8' is unknown; known: float32"),
        ({"device": "gpu"}, "--device 'gpu' is no device"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
    ],
)
def test_what_cannot_be_loaded_is_named(checkpoint: Path, settings: dict, message: str) -> None:
    with pytest.raises(DyrateError, match=message):
        DyrateModel(**{"pretrained": str(checkpoint), "device": "cpu", **settings})


def test_weights_that_are_cut_off_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DyrateError, match=r"--model .*cut: its weights are damaged or cut off"):
        DyrateModel(str(folder), device="cpu")


def test_a_method_without_a_mapping_is_named() -> None:
    with pytest.raises(DyrateError, match=r"mapping with a 'name', such as .*, not \['fastv'\]"):
        load_method(["fastv"])  # type: ignore[arg-type]


def test_the_colors_of_a_palette_count_not_its_indices() -> None:
    one, other = Image.new("P", (2, 2), 1), Image.new("P", (2, 2), 1)
    one.putpalette([0, 0, 0, 255, 0, 0])
    other.putpalette([0, 0, 0, 0, 255, 0])
    assert one.tobytes() == other.tobytes()
    assert colors(one) != colors(other)
    same = Image.new("P", (2, 2), 0)
    same.putpalette([255, 0, 0, 0, 0, 0])
    assert colors(one) == colors(same)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs(checkpoint: Path, data: Path, dtype: str) -> None:
    model = DyrateModel(str(checkpoint), dtype=dtype, device="cpu", batch_size=4)
    assert len(model.generate_until(_requests(model, data, ("gqa",), 4))) == 4


@pytest.mark.slow
def test_lmms_evals_own_command_line_runs_the_model(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    tasks = Path(dyrate.evaluation.__file__).parent / "tasks"
    arguments = f'pretrained={checkpoint},device=cpu,method={{"name": "fastv", "layer": 1, "rate": 0.5}}'
    command = [sys.executable, "-m", "lmms_eval", "--model", "dyrate", "--model_args", arguments]
    command += ["--tasks", "gqa_testbed", "--include_path", str(tasks), "--limit", "4", "--batch_size", "2"]
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path)], cwd=data, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = tmp_path.rglob("*_results.json")
    assert json.loads(found.read_text())["results"]["gqa_testbed"]["exact_match,none"] == 0


def test_a_truncated_image_fails_with_its_row(model: DyrateModel, data: Path) -> None:
    """lmms-eval has Pillow fill up what is missing with grey; the answer would count as one to the image."""
    requests = _requests(model, data, ("gqa",), 2)
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    task, split, row = requests[1].args[4], requests[1].args[5], requests[1].args[3]
    documents = [dict(model.task_dict[task][split][index]) for index in range(2)]
    documents[row]["image"] = Image.open(io.BytesIO(file.getvalue()[:300]))
    model.task_dict[task] = {split: documents}
    with pytest.raises(DyrateError, match=rf"task {task}, row {row}: the image cannot be decoded"):
        _answers(model, requests)
