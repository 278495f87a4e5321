"""Prompts that are not whole are refused before the model runs; unusual ones run as without a block."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import VTW, Downsample, FastV, NoReduction, RandomTokens, ReductionMethod
from dyrate.errors import DyrateError
from tests.tiny import IMAGE, row_of, tiny_inputs, tiny_llava

Change = Callable[[dict[str, Tensor]], dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3])


def with_ids(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda inputs: {**inputs, "input_ids": change(inputs["input_ids"])}


def with_mask(change: Callable[[Tensor], Any]) -> Change:
    return lambda inputs: {**inputs, "attention_mask": change(inputs["attention_mask"])}


def with_pixels(change: Callable[[Tensor], Tensor | None]) -> Change:
    return lambda inputs: {**inputs, "pixel_values": change(inputs["pixel_values"])}


def last(ids: Tensor, value: int) -> Tensor:
    return torch.cat([ids[:, :-1], torch.full((len(ids), 1), value)], dim=1)


def uneven(ids: Tensor) -> Tensor:
    """As many image tokens as before, but half an image's fewer in row 0 and as many more in row 1."""
    ids = ids.clone()
    ids[0, (ids[0] == IMAGE).nonzero()[:8, 0]] = 5
    ids[1, (ids[1] != IMAGE).nonzero()[:8, 0]] = IMAGE
    return ids


BAD: dict[str, tuple[Change, str]] = {
    "no pixels": (with_pixels(lambda pixels: None), "[16, 16] image tokens per row, but no image"),
    "no images": (with_pixels(lambda pixels: pixels[:0]), "image"),
    "too few images": (
        with_pixels(lambda pixels: pixels[:1]),
        "32 image tokens, but the images make 16 visual features",
    ),
    "too many images": (with_pixels(lambda pixels: pixels.repeat(2, 1, 1, 1)), "do not belong together"),
    "an image in two rows": (with_ids(uneven), "[8, 24] image tokens per row, which does not fit 2 images"),
    "no image tokens": (with_ids(lambda ids: ids.masked_fill(ids == IMAGE, 5)), "without image tokens"),
    "unknown id": (with_ids(lambda ids: last(ids, 64)), "input_ids holds 64; the model's vocabulary has"),
    "negative id": (with_ids(lambda ids: last(ids, -1)), "input_ids holds -1"),
    "ids are no integers": (with_ids(lambda ids: ids.float()), "input_ids is of torch.float32"),
    "one row without a batch": (
        lambda inputs: {"input_ids": inputs["input_ids"][0]},
        "input_ids has shape (29,)",
    ),
    "no rows": (lambda inputs: {"input_ids": inputs["input_ids"][:0]}, "input_ids has shape (0, 29)"),
    "no columns": (lambda inputs: {"input_ids": inputs["input_ids"][:, :0]}, "input_ids has shape (2, 0)"),
    "mask is a list": (with_mask(lambda mask: mask.tolist()), "attention_mask is a list"),
    "mask of twos": (with_mask(lambda mask: mask * 2), "attention_mask holds 2"),
    "mask of halves": (with_mask(lambda mask: mask / 2), "attention_mask holds 0.5"),
    "mask with NaN": (with_mask(lambda mask: mask.float().masked_fill(mask == 0, float("nan"))), "holds nan"),
    "additive mask": (with_mask(lambda mask: (1.0 - mask) * -1e9), "attention_mask holds -1000000000.0"),
    "a row of padding": (with_mask(lambda mask: mask * torch.tensor([[1], [0]])), "padding in rows [1]"),
    "mask of one row": (with_mask(lambda mask: mask[:1]), "attention_mask has shape (1, 29)"),
}


@pytest.mark.parametrize("method", [NoReduction(), FastV(), Downsample()], ids=lambda method: method.name)
@pytest.mark.parametrize("case", BAD)
def test_half_a_prompt_is_refused(
    case: str, method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    change, message = BAD[case]
    with method(model), pytest.raises(DyrateError, match=re.escape(message)):
        model(**change(inputs))


@pytest.mark.parametrize("case", ["no images", "too few images", "too many images", "an image in two rows"])
def test_generate_refuses_half_a_prompt(case: str, model: Any, inputs: dict[str, Tensor]) -> None:
    change, message = BAD[case]
    with FastV()(model) as run:
        with pytest.raises(DyrateError, match=re.escape(message)):
            model.generate(**change(inputs), max_new_tokens=2)
        model.generate(**inputs, max_new_tokens=2)  # The block still works.
        assert run.encoded == (2, 16)


GOOD: dict[str, Change] = {
    "mask of floats": with_mask(lambda mask: mask.float()),
    "mask of bools": with_mask(lambda mask: mask.bool()),
    "a hole in the mask": with_mask(lambda mask: mask * (torch.arange(29) != 26)),
    "an image behind the mask": lambda inputs: {
        **inputs,
        "attention_mask": inputs["attention_mask"] * (inputs["input_ids"] != IMAGE),
    },
    "ids of 32 bits": with_ids(lambda ids: ids.int()),
    "token types": lambda inputs: {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])},
    "own positions": lambda inputs: {**inputs, "position_ids": 3 * torch.arange(29).expand(2, -1)},
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_prompts_are_what_they_are_without_a_block(
    case: str, model: Any, inputs: dict[str, Tensor]
) -> None:
    unusual = GOOD[case](inputs)
    with torch.no_grad():
        stock = model(**unusual).logits[:, -1]
        with NoReduction()(model):
            torch.testing.assert_close(model(**unusual).logits[:, -1], stock)
        with FastV()(model):
            assert model(**unusual).logits.isfinite().all()


def test_rows_with_one_two_and_no_images_may_stand_in_one_batch(model: Any) -> None:
    inputs = tiny_inputs([7, 3, 5], images=[1, 0, 2])
    with FastV()(model):
        batch = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        for row in range(3):
            alone = model.generate(**row_of(inputs, row), max_new_tokens=4, do_sample=False)
            assert torch.equal(alone[0, -4:], batch[row, -4:])


def encoder_outputs(model: Any, pixels: Tensor) -> dict[str, Any]:
    import inspect

    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this release of transformers takes no features")
    return {"mm_encoder_outputs": {"image": model.model.get_image_features(pixels, return_dict=True)}}


def test_features_may_be_made_before_the_forward(model: Any, inputs: dict[str, Tensor]) -> None:
    pixels = inputs["pixel_values"]
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        outside = encoder_outputs(model, pixels)
        for method in (FastV(), Downsample(), RandomTokens()):
            with method(model):
                expected = model(**inputs).logits
                assert torch.equal(model(**text, **encoder_outputs(model, pixels)).logits, expected)
        with FastV()(model):
            expected = model(**inputs).logits
            assert torch.equal(model(**text, **outside).logits, expected)


@pytest.mark.parametrize("method", [Downsample(), RandomTokens()], ids=lambda method: method.name)
def test_features_of_other_images_are_not_taken_for_those_made_last(
    method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    pixels = inputs.pop("pixel_values")
    outside = encoder_outputs(model, pixels)
    with torch.no_grad(), method(model):
        model.get_image_features(torch.randn_like(pixels))
        with pytest.raises(DyrateError, match=r"made (in|out)side the with block"):
            model(**inputs, **outside)


def test_a_mask_that_hides_part_of_an_image_is_refused_by_encoder_methods(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    image = inputs["input_ids"] == IMAGE
    inputs["attention_mask"] = inputs["attention_mask"].masked_fill(image & (image.cumsum(1) < 5), 0)
    with Downsample()(model), pytest.raises(DyrateError, match=r"shows \[12, 12\] of the \[16, 16\]"):
        model(**inputs)


def test_an_image_after_the_prompt_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    step = inputs["input_ids"][:, :1]
    with FastV()(model):
        cache = model(**inputs).past_key_values
        with pytest.raises(DyrateError, match="images belong to the prompt"):
            model(input_ids=step, past_key_values=cache, pixel_values=inputs["pixel_values"])


@pytest.mark.parametrize("wanted", [1, 5, 20, 29, 1000, torch.tensor([-1]), torch.tensor([-3, -1])], ids=str)
def test_logits_are_those_of_the_tokens_that_are_left(
    wanted: Any, model: Any, inputs: dict[str, Tensor]
) -> None:
    with torch.no_grad(), FastV()(model):
        full = model(**inputs).logits
        expected = full[:, -wanted:] if isinstance(wanted, int) else full[:, wanted]
        torch.testing.assert_close(model(**inputs, logits_to_keep=wanted).logits, expected)


@pytest.mark.parametrize(
    "wanted", [torch.tensor([14]), torch.tensor([28]), torch.tensor([-12]), torch.ones(2, 29).bool()], ids=str
)
def test_logits_of_places_in_the_prompt_are_refused_where_tokens_go(
    wanted: Tensor, model: Any, inputs: dict[str, Tensor]
) -> None:
    with FastV()(model), pytest.raises(DyrateError, match="logits_to_keep as a tensor"):
        model(**inputs, logits_to_keep=wanted)
    if wanted.dim() == 1:
        with torch.no_grad():
            expected = model(**inputs).logits[:, wanted]
            with NoReduction()(model):
                torch.testing.assert_close(model(**inputs, logits_to_keep=wanted).logits, expected)


def test_positions_with_gaps_are_refused_where_tokens_are_renumbered(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    positions = torch.arange(29)[None]
    with torch.no_grad(), VTW(layer=3, positions="contiguous")(model):
        shifted = model(**inputs, position_ids=positions).logits
        torch.testing.assert_close(shifted, model(**inputs).logits)
        with pytest.raises(DyrateError, match="position_ids has gaps"):
            model(**inputs, position_ids=3 * positions)
