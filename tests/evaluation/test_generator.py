"""What generates is a matter of speed: the engine's answers, and what is counted, are transformers' own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint import load_model
from dyrate.evaluation.harness import ask
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.requests import Request
from dyrate.registry import load_method


@pytest.mark.parametrize("method", ["none", {"name": "fastv", "layer": 1, "rate": 0.5}])
@pytest.mark.parametrize("decoding", ["greedy", {"name": "top_p", "seed": 3}])
def test_the_engine_gives_the_answers_of_transformers(
    checkpoint: Path, data: Path, method: Any, decoding: Any
) -> None:
    tasks = load_tasks(select(("gqa", "pope")), "testbed", data, 10)
    found = {}
    for engine in ("auto", "graph"):
        model = DyrateModel(str(checkpoint), method, decoding, batch_size=8, device="cpu", engine=engine)
        answers = [ask(model, loaded) for loaded in tasks]
        found[model.engine] = answers, {name: record.tokens for name, record in model.records.items()}
    assert set(found) == {"transformers", "graph"}
    assert found["graph"] == found["transformers"]
    answers, counted = found["graph"]
    assert [len(each) for each in answers] == [10, 10]
    assert len(counted) == 2


def test_beams_are_transformers(checkpoint: Path) -> None:
    assert DyrateModel(str(checkpoint), device="cpu", decoding="beam-2").engine == "transformers"
    with pytest.raises(DyrateError, match="engine graph has no beams, and decoding beam-2 is a beam search"):
        DyrateModel(str(checkpoint), device="cpu", decoding="beam-2", engine="graph")
    with pytest.raises(DyrateError, match="engine is 'fast'; known: auto, transformers, graph"):
        DyrateModel(str(checkpoint), device="cpu", engine="fast")


def test_what_the_engine_cannot_run_is_transformers_where_nobody_asked_for_it(checkpoint: Path) -> None:
    voco = {"name": "voco", "token": 59}
    with pytest.raises(DyrateError, match="hides 'sys' tokens from generated ones"):
        DyrateModel(str(checkpoint), voco, device="cpu", engine="graph")
    model = DyrateModel(str(checkpoint), device="cpu", engine="graph")
    assert model._generator is not None
    model._generator._asked = "auto"  # as on a GPU
    assert model._generator.engine(model.setting.decoding, load_method("none")) == "graph"
    assert model._generator.engine(model.setting.decoding, load_method(voco)) == "transformers"


@pytest.fixture
def wishing(checkpoint: Path, tmp_path: Path) -> Any:
    """Return the checkpoint's folder with other wishes in its generation_config.json."""

    def change(wishes: dict[str, Any]) -> str:
        folder = shutil.copytree(checkpoint, tmp_path / "wishing")
        file = folder / "generation_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **wishes}))
        return str(folder)

    return change


@pytest.mark.parametrize(
    "wishes",
    [
        {"repetition_penalty": 0},
        {"repetition_penalty": "1.3"},
        {"repetition_penalty": True},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5},
        {"suppress_tokens": [10]},
        {"forced_eos_token_id": 2},
        {"remove_invalid_values": True},
        {"stop_strings": ["a"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("engine", ["transformers", "graph"])
def test_what_a_checkpoint_wants_otherwise_is_refused(wishing: Any, wishes: dict, engine: str) -> None:
    (key,) = wishes
    cure = "a number above 0" if key == "repetition_penalty" else "remove it from"
    with pytest.raises(DyrateError, match=f"generation_config.json asks for {key}=.*{cure}"):
        DyrateModel(wishing(wishes), device="cpu", engine=engine)


def test_what_the_decoding_says_or_changes_no_answer_is_left_out(
    wishing: Any, checkpoint: Path, data: Path
) -> None:
    wishes = {"return_dict_in_generate": True, "output_scores": True, "use_cache": False, "max_length": 5}
    wishes |= {"do_sample": True, "temperature": 0.6, "top_p": 0.5, "num_beams": 3, "repetition_penalty": 1.0}
    tasks = load_tasks(select(("gqa",)), "testbed", data, 4)
    plain = ask(DyrateModel(str(checkpoint), device="cpu", batch_size=4), tasks[0])
    folder = wishing({**wishes, "cache_implementation": "static", "eos_token_id": [2, 2]})
    for engine in ("transformers", "graph"):
        assert ask(DyrateModel(folder, device="cpu", batch_size=4, engine=engine), tasks[0]) == plain


@pytest.mark.parametrize(
    ("engine", "decoding"), [("transformers", "greedy"), ("transformers", "beam-2"), ("graph", "greedy")]
)
def test_a_checkpoints_penalty_of_repetition_is_heeded_as_the_stock_model_heeds_it(
    wishing: Any, engine: str, decoding: str
) -> None:
    """Prompt by prompt: what stands beside a prompt pads it, with a token that would be counted."""
    folder = wishing({"repetition_penalty": 2.5})
    model = DyrateModel(folder, device="cpu", batch_size=4, engine=engine, decoding=decoding)
    questions = [
        model.question(one, [image])
        for one, image in zip(
            [Request(text, "{}", list, i, "t", "test") for i, text in enumerate(("What?", "Is it red?", ""))],
            [Image.effect_noise((28, 28), 60 + i).convert("RGB") for i in range(3)],
            strict=True,
        )
    ]

    told, _ = model.answer(model.setting, questions, 12)

    processor, stock = load_processor(Path(folder)), load_model(Path(folder), torch.device("cpu"), "float32")
    assert stock.generation_config.repetition_penalty == 2.5
    beams = {"num_beams": 2 if decoding == "beam-2" else 1, "do_sample": False}
    changed = False
    for question, answer in zip(questions, told, strict=True):
        inputs = processor(text=[question.prompt], images=list(question.images), return_tensors="pt")
        width = inputs["input_ids"].shape[1]
        made = stock.generate(**inputs, max_new_tokens=12, **beams)[0, width:]
        other = stock.generate(**inputs, max_new_tokens=12, repetition_penalty=1.0, **beams)[0, width:]
        assert answer == processor.tokenizer.decode(made, skip_special_tokens=True)
        changed |= made.tolist() != other.tolist()
    assert changed


@pytest.mark.parametrize("ends", [99999, -1, "2", True, [], [2, None]], ids=str)
def test_ends_that_are_no_token_are_refused(wishing: Any, ends: Any) -> None:
    with pytest.raises(
        DyrateError, match=r"generation_config.json.* eos_token_id is|eos_token_id is .*0 to 260"
    ):
        DyrateModel(wishing({"eos_token_id": ends}), device="cpu")
