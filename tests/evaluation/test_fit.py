"""Models that no single device has room for: over several devices, in fewer bits."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dyrate.bench import study_jobs as bench
from dyrate.bench.study_jobs import timed
from dyrate.engine.parts import check_whole
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint, placement
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.checkpoint import choose_device
from dyrate.evaluation.evaluate import meta
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.placement import Fit
from dyrate.evaluation.soundness import check_placed
from dyrate.registry import load_method
from dyrate.report.provenance import fitted
from dyrate.study import Study, StudyError
from dyrate.testbed.world.examples import validation_example
from tests.evaluation.stand_ins import make_checkpoint
from tests.tiny import tiny_llava

STUDY: dict[str, Any] = {
    "study": "large",
    "samples": 5,
    "benchmarks": ["gqa"],
    "methods": [{"name": "none", "published": {"table2": "Original"}}],
}
LARGE = {"name": "large", "path": "models/testbed-s", "device_map": "auto", "bits": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("large"))


def job(**given: Any) -> Evaluation:
    return Evaluation.of({"model": "m", "benchmarks": ["gqa"], "output": "out", **given}, str)


def test_a_model_over_devices_answers_as_one_on_one_and_results_say_so(folder: Path) -> None:
    whole = DyrateModel(str(folder), device="cpu")
    over = DyrateModel(str(folder), device="cpu", device_map="auto", engine="auto")
    assert over.engine == "transformers"
    weights = zip(whole.model.parameters(), over.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    question = SimpleNamespace(content="the same")
    assert over.key(over.setting, question, 4) != whole.key(whole.setting, question, 4)
    assert (
        meta(job(device_map="auto", bits=4), over, [], "").items()
        >= {"device_map": "auto", "bits": 4}.items()
    )
    assert not {"device_map", "bits"} & meta(job(), whole, [], "").keys()


def test_the_command_that_is_printed_asks_for_the_same() -> None:
    assert "--device-map auto --bits 8" in job(device_map="auto", bits=8).command()
    assert "bits" not in job().command()


def test_pages_say_that_times_are_not_comparable() -> None:
    assert fitted({}) == ""
    assert fitted({"bits": 8}) == ", the language model's layers in 8 bits (times are not comparable)"
    assert "layers over several devices (times" in fitted({"device_map": "auto"})


@pytest.mark.parametrize("key", [{"device_map": "auto"}, {"bits": 4}])
def test_the_graph_engine_refuses_them_by_name(folder: Path, key: dict[str, Any]) -> None:
    [name] = key
    with pytest.raises(DyrateError, match="the engine graph runs models that are whole on one device"):
        job(engine="graph", **key)
    with pytest.raises(DyrateError, match=f"leave out {name}"):
        DyrateModel(str(folder), device="cpu", engine="graph", **key)
    with pytest.raises(StudyError, match=f"models: large: {name}: the engine graph"):
        Study.of({**STUDY, "engine": "graph", "models": [{"name": "large", "path": "m", **key}]})


def test_the_engine_itself_refuses_them() -> None:
    model = tiny_llava()
    check_whole(model)
    model.is_quantized = True
    with pytest.raises(DyrateError, match="quantized"):
        check_whole(model)
    model.is_quantized = False
    model.lm_head.to("meta")
    with pytest.raises(DyrateError, match="spread over cpu, meta"):
        check_whole(model)


def test_a_studys_jobs_are_told_and_its_times_are_refused() -> None:
    study = Study.of({**STUDY, "models": [LARGE]})
    asked = json.loads(study.evaluations(study.sweeps[0]))[0]
    assert (asked["device_map"], asked["bits"]) == ("auto", 8)
    with pytest.raises(StudyError, match="latency: large has device_map and bits, and times"):
        timed(Study.of({**STUDY, "models": [LARGE], "latency": {"benchmark": "gqa"}}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bits": 3}, "bits"),
        ({"device_map": "balanced"}, "device_map"),
        ({"adapter": "instructblip", "path": ""}, "large: device_map: is for checkpoints"),
    ],
)
def test_a_models_entry_is_checked(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        Study.of({**STUDY, "models": [{key: value for key, value in {**LARGE, **change}.items() if value}]})


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(
        DyrateError, match="--bits 8: bitsandbytes is not installed: pip install bitsandbytes"
    ):
        DyrateModel(str(folder), device="cpu", bits=8)
    monkeypatch.setattr(placement, "find_spec", lambda name: object())
    with pytest.raises(DyrateError, match="--bits 8: needs a GPU, and the device is cpu"):
        DyrateModel(str(folder), device="cpu", bits="8")
    with pytest.raises(DyrateError, match="bits is 3; known: 8, 4"):
        DyrateModel(str(folder), device="cpu", bits=3)


@pytest.mark.parametrize("bits", [8, 4])
def test_transformers_own_configuration_says_how(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: object())
    found = Fit(bits=bits).quantization(torch.device("cuda"), torch.bfloat16)
    assert (found.load_in_8bit, found.load_in_4bit) == (bits == 8, bits == 4)
    assert "vision_tower" in found.llm_int8_skip_modules
    assert bits == 8 or found.bnb_4bit_compute_dtype == torch.bfloat16
    assert Fit().quantization(torch.device("cpu"), torch.float32) is None


def test_one_device_and_all_of_them_are_not_asked_for_at_once() -> None:
    with pytest.raises(DyrateError, match="'cuda:1' is one device, and --device-map auto takes all"):
        choose_device("cuda:1", Fit("auto"))
    assert choose_device("cpu", Fit("auto")).type == "cpu"


def test_what_does_not_fit_on_the_gpus_is_not_left_to_the_cpu_in_silence(tmp_path: Path) -> None:
    model = SimpleNamespace(hf_device_map={"model.vision_tower": 0, "lm_head": "cpu"})
    with pytest.raises(DyrateError, match=r"have no room for lm_head: .*--bits 8"):
        check_placed(tmp_path, model, torch.device("cuda:0"))
    check_placed(tmp_path, model, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_checkpoint_is_spread_over_two_gpus(folder: Path) -> None:
    """It is too small to need them: `balanced` stands for what auto does with a large one."""
    model = checkpoint.load_model(folder, torch.device("cuda:0"), "float32", fit=Fit("balanced"))
    assert {parameter.device.index for parameter in model.parameters()} == {0, 1}


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("bitsandbytes") is None or not torch.cuda.is_available(), reason="needs both")
@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_take_less_memory_and_answer_under_a_method(bits: int) -> None:
    model = DyrateModel("models/testbed-s", dtype="bfloat16", bits=bits)
    whole = DyrateModel("models/testbed-s", dtype="bfloat16")
    assert model.model.get_memory_footprint() < whole.model.get_memory_footprint()
    assert model.engine == "transformers"
    with pytest.raises(DyrateError, match="quantized"):
        check_whole(model.model)
    assert answered(model) == answered(whole)


def answered(model: DyrateModel) -> tuple[str, list[int]]:
    """What a scene's question gets under FastV, and how many tokens the cache of each layer held."""
    scene = validation_example(seed=0, index=1)
    prompt = f"USER: <image>\n{scene.turns[2].prompt} ASSISTANT:"
    inputs = model.processor(images=Image.fromarray(scene.image), text=prompt, return_tensors="pt")
    with load_method({"name": "fastv", "layer": 2, "rate": 0.5})(model.model) as run:
        ids = model.model.generate(**inputs.to(model.model.device, torch.bfloat16), max_new_tokens=8)
    return model.processor.decode(ids[0], skip_special_tokens=True), run.kv_lengths[:, 0].tolist()


def test_an_answer_under_a_method_is_right() -> None:
    """What fewer bits are compared with."""
    text, lengths = answered(DyrateModel("models/testbed-s", dtype="bfloat16", device="cpu"))
    assert text.endswith("ASSISTANT: triangle")
    assert lengths[0] - lengths[2] == 72


@pytest.mark.parametrize(
    ("gpu", "wanted", "trained"),
    [(None, "float32", "float32"), ((8, 0), "bfloat16", "bfloat16"), ((7, 5), "float16", "bfloat16")],
)
def test_quality_latency_and_training_are_in_the_dtype_that_the_device_has(
    gpu: tuple[int, int] | None, wanted: str, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpu)
    model = {"name": "small", "path": "models/testbed-s"}
    recipe = {"name": "mine", "layer": 2, "steps": 1}
    study = Study.of(
        {
            **STUDY,
            "models": [model],
            "methods": [*STUDY["methods"], {"name": "dyrate", "layer": 2, "predictor": "mine"}],
            "predictors": [recipe],
            "latency": {"benchmark": "gqa"},
            "resources": {"gpu": 1},
        }
    )
    assert study.typed.dtype == "auto"
    jobs = [study.evaluation(study.jobs[0])]
    jobs += [bench.job(study, asked[0].model, asked) for asked in timed(study).values()]
    assert {placement.settled(one).dtype for one in jobs} == {wanted}
    assert "--dtype auto" not in placement.settled(jobs[0]).command()
    training = study.asked_training(study.training("small", "mine"))
    assert placement.settled(training).dtype == trained
    assert placement.settled(job(dtype="float16")).dtype == "float16"
    for one in [*jobs, training]:
        made = placement.settled(one).command()
        assert placement.is_of(made, one)
        assert not placement.is_of(made, one.model_copy(update={"output": Path("other")}))
    assert not placement.is_of(job(dtype="float16").command(), job(dtype="float32"))
