"""What is particular to model families: what each refuses, and what earlier prompts may not leave behind."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import Engine, FastV, NoReduction
from dyrate.errors import DyrateError
from dyrate.families import families, family_of
from dyrate.registry import load_method
from tests.tiny import IMAGE, tiny_llava
from tests.tiny_families import TINY, VIDEO, Tiny

QWEN = ("qwen2_5_vl", "qwen3_vl")
IN_THE_TOWER: dict[str, dict[str, Any]] = {"downsample": {}, "tome": {"merged": 2}}


def last(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits[:, -1]
    return logits


def test_each_family_has_a_tiny_model() -> None:
    assert {type(tiny.model).__name__ for tiny in TINY.values()} == families().keys() - {
        type(tiny_llava()).__name__
    }


@pytest.mark.parametrize("name", IN_THE_TOWER)
@pytest.mark.parametrize("tiny", TINY.values(), ids=TINY)
def test_methods_that_change_patches_name_the_family_that_has_none(name: str, tiny: Tiny) -> None:
    family = tiny.name.partition("-")[0]
    with pytest.raises(DyrateError, match=rf"\(.*\) works on the vision encoder's patches.* of {family} is"):
        load_method({"name": name, **IN_THE_TOWER[name]})(tiny.model)


@pytest.mark.parametrize("name", QWEN)
def test_the_engine_refuses_prompts_that_end_in_an_image(name: str) -> None:
    row = TINY[name].subject.rows[0]
    end = int((row["input_ids"][0] == IMAGE).nonzero()[-1]) + 1
    cut = {key: row[key][:, :end] for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    with pytest.raises(DyrateError, match=r"rows \[0\] end in an image"):
        Engine(TINY[name].model).generate(FastV(), {**row, **cut}, max_new_tokens=3)


def test_the_engine_names_the_inputs_that_a_family_has() -> None:
    row = TINY["qwen3_vl"].subject.rows[0]
    engine = Engine(TINY["qwen3_vl"].model)
    with pytest.raises(DyrateError, match=r"inputs has 'image_sizes'; the engine reads .*image_grid_thw"):
        engine.generate(FastV(), {**row, "image_sizes": torch.ones(1, 2)}, max_new_tokens=3)
    with pytest.raises(DyrateError, match=r"\[patches, numbers\] is expected"):
        engine.generate(FastV(), {**row, "pixel_values": torch.ones(1, 3, 8, 8)}, max_new_tokens=3)


@pytest.mark.parametrize("name", ["llava_onevision", *QWEN])
def test_videos_are_refused(name: str) -> None:
    subject = TINY[name].subject
    row = subject.rows[0]
    ids = row["input_ids"].masked_fill(row["input_ids"] == IMAGE, VIDEO)
    with FastV()(subject.model):
        with pytest.raises(DyrateError, match=f"input_ids holds {VIDEO}"):
            subject.model(input_ids=ids)
        with pytest.raises(DyrateError, match=r"videos are not supported.*pixel_values_videos"):
            subject.model(**row, pixel_values_videos=row["pixel_values"])


@pytest.mark.parametrize("name", QWEN)
def test_images_without_token_types_are_refused(name: str) -> None:
    subject = TINY[name].subject
    row = {key: value for key, value in subject.rows[0].items() if key != "mm_token_type_ids"}
    text = {key: value for key, value in subject.rows[2].items() if key != "mm_token_type_ids"}
    with FastV()(subject.model):
        for call in (subject.model, subject.model.generate):
            with pytest.raises(DyrateError, match="mm_token_type_ids is missing"):
                call(**row)
        subject.model.generate(**text, max_new_tokens=2)


@pytest.mark.parametrize("name", QWEN)
def test_an_image_leaves_no_positions_behind_for_the_next_prompt(name: str) -> None:
    subject = TINY[name].subject
    model, step = subject.model, torch.tensor([[5]])

    def decoded() -> Tensor:
        with torch.no_grad():
            cache = model(**subject.rows[2]).past_key_values
        return last(model, input_ids=step, past_key_values=cache)

    model.model.rope_deltas = None
    plain = decoded()
    with NoReduction()(model):
        last(model, **subject.rows[0])
        assert torch.equal(decoded(), plain)


@pytest.mark.parametrize("name", TINY)
def test_steps_by_hand_are_those_of_generate(name: str) -> None:
    subject = TINY[name].subject
    model, row = subject.model, subject.rows[0]
    with FastV(layer=2, rate=0.5)(model), torch.no_grad():
        made = model.generate(
            **row, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        found = [model(**row)]
        for token in made.sequences[0, -4:-1]:
            found.append(model(input_ids=token.view(1, 1), past_key_values=found[0].past_key_values))
    for ours, theirs in zip(found, made.logits, strict=True):
        torch.testing.assert_close(ours.logits[:, -1], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_the_model_is_left_as_it_was(name: str) -> None:
    subject = TINY[name].subject
    model, row = subject.model, subject.rows[1]

    def hooks() -> list[Any]:
        return [
            (*module._forward_hooks, *module._forward_pre_hooks, *sorted(vars(module)))
            for module in model.modules()
        ]

    plain, before = last(model, **row), hooks()
    with FastV(layer=1)(model):
        last(model, **row)
    assert hooks() == before
    assert torch.equal(last(model, **row), plain)


@pytest.mark.parametrize("name", TINY)
def test_images_that_are_too_few_are_counted(name: str) -> None:
    subject = TINY[name].subject
    ids = subject.rows[0]["input_ids"].clone()
    ids[0, ids[0].tolist().index(IMAGE) - 1] = IMAGE  # one more place than features
    row = {**subject.rows[0], "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in row:
        row["mm_token_type_ids"] = (ids == IMAGE).int()
    with FastV()(subject.model), pytest.raises(DyrateError, match="do not belong together"):
        subject.model(**row)


def test_squares_must_divide_each_picture() -> None:
    subject = TINY["llava_next-llama"].subject
    method = load_method({"name": "average_pool", "size": 4})
    with method(subject.model), pytest.raises(DyrateError, match="grid of 6 x 8; size must divide 6 and 8"):
        subject.model(**subject.rows[0])


def test_newlines_end_the_rows_of_the_grid() -> None:
    tiny = TINY["llava_next-llama"]
    family, row = family_of(tiny.model), tiny.subject.rows[0]
    inputs = {name: row[name] for name in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        features = tiny.model.model.get_image_features(**inputs).pooler_output
    (places,) = family.places(inputs, features)
    assert places[:16].tolist() == [[0, row, column] for row in range(4) for column in range(4)]
    assert places[16:].tolist() == [[1, row, column] for row in range(6) for column in (*range(8), -1)]


@pytest.mark.parametrize("tiny", TINY.values(), ids=TINY)
def test_seeds_of_copied_rows_are_those_of_their_images(tiny: Tiny) -> None:
    """transformers copies features where it copies rows: of InternVL's, which are one tensor, there are new
    ones then.
    """
    subject, method = tiny.subject, load_method({"name": "random", "rate": 0.5, "layer": 1})
    kept = []
    for copies in (1, 2):
        with method(subject.model) as run:
            subject.model.generate(
                **subject.inputs, max_new_tokens=2, do_sample=True, num_return_sequences=copies
            )
        kept.append([row.tolist() for row in run.kept[1]])
    assert kept[1] == [row for row in kept[0] for _ in range(2)]
