"""Connectors in training: what a packed batch becomes, and that what is saved answers as what was trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dyrate.connectors.folder import load_connector
from dyrate.connectors.join import questions, sizes_of
from dyrate.connectors.registry import build
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint
from dyrate.registry import load_method
from dyrate.testbed.connectors.packing import questions_of, with_visual_tokens
from dyrate.testbed.connectors.recipe import RECIPES, ConnectorRecipe
from dyrate.testbed.connectors.train import Lesson, train
from dyrate.testbed.models.packing import NO_TARGET, branch_mask
from dyrate.testbed.world.examples import validation_example

MODEL = Path("models/testbed-s")
RECIPE = ConnectorRecipe(
    "projector", steps=2, alone=1, batch_size=2, warmup_steps=1, precision="float32", rank=2
)
TURNS = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return Lesson(MODEL, RECIPE, "cpu")


@pytest.fixture(scope="module")
def batch(lesson: Lesson) -> Any:
    return lesson.packer.batch([validation_example(0, index) for index in range(4)])


def test_fewer_visual_tokens_are_as_if_packed_so(batch: Any) -> None:
    packed, _ = batch
    first = packed.first_visual_token
    made = with_visual_tokens(packed, 5)
    assert made.input_ids.shape[1] == packed.input_ids.shape[1] - 144 + 5
    for row in range(4):
        real = packed.segments[row] > 0
        real[: first + 144] = True
        text = real[first + 144 :]
        assert made.position_ids[row, : first + 5].tolist() == list(range(first + 5))
        moved = packed.position_ids[row, first + 144 :][text] - 139
        assert made.position_ids[row, first + 5 :][text].tolist() == moved.tolist()
    for part in ("input_ids", "targets", "weights", "segments"):
        assert torch.equal(getattr(made, part)[:, first + 5 :], getattr(packed, part)[:, first + 144 :])
        assert torch.equal(getattr(made, part)[:, : first + 5], getattr(packed, part)[:, : first + 5])


def test_own_visual_tokens_are_seen_by_their_turn_alone(batch: Any) -> None:
    packed, placed = batch
    first = packed.first_visual_token
    made = with_visual_tokens(packed, 2, TURNS)
    mask = branch_mask(made.segments)[:, 0]
    text = first + 2 * TURNS
    for row, turns in enumerate(placed):
        for turn in range(1, len(turns) + 1):
            for place in (made.segments[row, text:] == turn).nonzero().flatten().tolist():
                seen = mask[row, text + place, first:text].nonzero().flatten().tolist()
                assert seen == [2 * turn - 2, 2 * turn - 1]
        assert made.position_ids[row, first:text].tolist() == [first, first + 1] * TURNS
    assert not (made.targets[:, :text] != NO_TARGET).any()


@pytest.mark.parametrize("name", ["instruct_qformer", "context"])
def test_the_questions_of_a_batch_are_what_a_prompt_asks(lesson: Lesson, batch: Any, name: str) -> None:
    packed, placed = batch
    fields = {**RECIPES[name].fields, "words": 7}
    connector = build(name, sizes_of(lesson.model), fields)
    found = questions_of(packed, TURNS, lesson.ends, connector)
    for row, turns in enumerate(placed):
        texts = [turn.prompt for turn in turns]
        expected = questions(lesson.processor.tokenizer, texts, connector)
        for turn in range(TURNS):
            ids = found.ids[row * TURNS + turn][found.mask[row * TURNS + turn]].tolist()
            assert ids == (expected.ids[turn][expected.mask[turn]].tolist() if turn < len(turns) else [])


SMALL = {
    name: replace(RECIPE, connector=recipe.connector, fields=recipe.fields)
    for name, recipe in RECIPES.items()
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("connectors")
    assert train(MODEL, SMALL, folder, folder / "kept", "cpu", held_out_examples=1) is not None
    return folder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_is_saved_answers_as_what_was_trained(trained: Path, lesson: Lesson, name: str) -> None:
    """A prompt of the joined model has the logits that the packed batch had, at the same place."""
    from dyrate.testbed.connectors.student import Student
    from dyrate.testbed.connectors.train import _resume, _trained

    student = Student(SMALL[name], lesson.model, lesson.ends)
    _resume({name: student}, trained / "kept")
    _trained(student)
    student.parts.eval()
    example = validation_example(0, 3)
    packed, [turns] = lesson.packer.batch([example])
    scale = 4 if name == "nested_pool" else 0
    with torch.no_grad():
        made, logits = student.logits(packed, lesson.see(packed), scale)
    saved = trained / (f"{name}-9" if scale else name)
    processor, model = checkpoint.load(saved, torch.device("cpu"), "float32")
    for number, turn in list(enumerate(turns, start=1))[:3]:
        prompt = f"USER: <image>\n{turn.prompt} ASSISTANT:"
        inputs = processor(text=prompt, images=Image.fromarray(example.image), return_tensors="pt")
        method = {"name": "voco", "token": 1023} if name == "compression_tokens" else {"name": "none"}
        with torch.no_grad(), load_method(method)(model):
            own = model(**inputs).logits[0, -1]
        answers = (made.segments[0] == number) & (made.targets[0] != NO_TARGET)
        packed_own = logits[0, int(answers.nonzero()[0])]
        torch.testing.assert_close(own, packed_own, rtol=2e-3, atol=2e-3)


def test_a_stopped_run_ends_as_an_undisturbed_one(trained: Path, tmp_path: Path) -> None:
    some = {name: SMALL[name] for name in ("ldp", "projector")}
    assert train(MODEL, some, tmp_path, tmp_path / "kept", "cpu", held_out_examples=1, stop_after=1) is None
    assert train(MODEL, some, tmp_path, tmp_path / "kept", "cpu", held_out_examples=1) is not None
    for name in some:
        parts = [(folder / name / "connector.safetensors").read_bytes() for folder in (trained, tmp_path)]
        assert parts[0] == parts[1]


def test_the_adapter_learns_after_the_connector(trained: Path) -> None:
    found = load_connector(trained / "ldp")
    assert any(part.any() for name, part in found.adapter.items() if name.endswith(".B"))
    folder = trained / "alone"
    recipe = replace(SMALL["ldp"], alone=1, steps=2)
    assert (
        train(MODEL, {"ldp": recipe}, folder, folder / "kept", "cpu", held_out_examples=1, stop_after=1)
        is None
    )
    from dyrate.testbed.models.checkpoint import load

    state = load(folder / "kept" / "ldp")
    assert state is not None
    learned = [part for name, part in state[1].items() if "model/" in name and "lora_B" in name]
    assert learned
    assert not any(part.any() for part in learned)


def test_what_cannot_share_batches_or_go_on_is_refused(trained: Path, tmp_path: Path) -> None:
    other = {"ldp": SMALL["ldp"], "projector": replace(SMALL["projector"], batch_size=3)}
    with pytest.raises(
        DyrateError, match="projector: batch_size is 3, and 2 of the first; connectors that are"
    ):
        train(MODEL, other, tmp_path, tmp_path / "kept", "cpu")
    with pytest.raises(DyrateError, match=r"the checkpoint in .*ldp belongs to another recipe"):
        train(
            MODEL,
            {"ldp": replace(SMALL["ldp"], rank=3)},
            tmp_path,
            trained / "kept",
            "cpu",
            held_out_examples=1,
        )
    with pytest.raises(DyrateError, match="steps: 2 should be more than alone"):
        replace(RECIPE, alone=2)
