"""Claims: packed turns are what inference sees, and the processor is that of the real models."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from dyrate.testbed.models.architecture import SIZES, VISUAL_TOKENS, build_model, build_processor
from dyrate.testbed.models.held_out import HeldOut
from dyrate.testbed.models.packing import NO_TARGET, Packer, branch_mask, normalise, packed_logits
from dyrate.testbed.models.recipe import RECIPES
from dyrate.testbed.models.stream import world_tokenizer
from dyrate.testbed.models.tokenizer import caption_tokenizer
from dyrate.testbed.world.examples import training_example, validation_example


@pytest.fixture(scope="module")
def tokenizer():
    return world_tokenizer(200)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return build_processor(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(SIZES["testbed-tiny"], tokenizer, seed=1).eval()


@pytest.fixture(scope="module")
def examples():
    return [training_example(7, index) for index in range(3)]


def conversation(processor, prompt):
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt}, {"type": "image"}]}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


def pixels(processor, batch):
    images = processor.image_processor
    return normalise(batch.images, torch.tensor(images.image_mean), torch.tensor(images.image_std))


def seen(processor, model, batch):
    """The states that LLaVA-1.5's projector reads: those of the tower's second-last layer."""
    tower = model.model.vision_tower
    return tower(pixel_values=pixels(processor, batch), output_hidden_states=True).hidden_states[-2]


def test_packed_logits_are_those_of_each_turn_alone(tokenizer, processor, model, examples):
    batch, placed = Packer(tokenizer, 512).batch(examples)
    with torch.inference_mode():
        packed = packed_logits(model, batch, seen(processor, model, batch))
    compared = 0
    for row, (example, turns) in enumerate(zip(examples, placed, strict=True)):
        for number, turn in enumerate(turns, start=1):
            text = f"{conversation(processor, turn.prompt)} {turn.answer}</s>"
            inputs = processor(text=text, images=Image.fromarray(example.image), return_tensors="pt")
            here = (batch.segments[row] == number).nonzero().flatten()
            assert inputs["input_ids"][0, -len(here) :].tolist() == batch.input_ids[row, here].tolist()
            with torch.inference_mode():
                alone = model(**inputs).logits[0, -len(here) :]
            torch.testing.assert_close(packed[row, here], alone, atol=1e-4, rtol=0)
            compared += 1
    assert compared >= 20


def test_pixels_are_the_processors(tokenizer, processor, examples):
    batch, _ = Packer(tokenizer, 512).batch(examples)
    expected = processor.image_processor(
        [Image.fromarray(example.image) for example in examples], return_tensors="pt"
    )["pixel_values"]
    torch.testing.assert_close(pixels(processor, batch), expected, atol=1e-6, rtol=0)


def test_spaced_positions_leave_inference_positions_to_the_rest(tokenizer, examples):
    """Visual tokens stand closer together; what follows stands right behind them."""
    packer = Packer(tokenizer, 512)
    (whole, _), (close, _) = packer.batch(examples), packer.batch(examples, [0.25] * len(examples))
    first, last = whole.first_visual_token, whole.first_visual_token + VISUAL_TOKENS
    for row in range(len(examples)):
        assert close.position_ids[row, first:last].tolist() == [first + i // 4 for i in range(VISUAL_TOKENS)]
        behind = whole.segments[row] > 0
        shift = VISUAL_TOKENS - VISUAL_TOKENS // 4
        assert torch.equal(close.position_ids[row, behind], whole.position_ids[row, behind] - shift)
    for name in ("input_ids", "targets", "weights", "segments", "captions"):
        assert torch.equal(getattr(whole, name), getattr(close, name)), name


def test_captions_end_where_the_text_tower_pools(tokenizer, examples):
    batch, _ = Packer(tokenizer, 512).batch(examples)
    reader = caption_tokenizer(tokenizer)
    for ids, captioned, example in zip(batch.captions, batch.captioned, examples, strict=True):
        captions = [turn.answer for turn in example.turns if turn.kind == "caption"]
        assert bool(captioned) == bool(captions)
        end = ids.tolist().index(reader.eos_token_id)
        assert reader.eos_token_id == len(reader) - 1 == int(ids.max())
        assert (ids[end:] == reader.eos_token_id).all()
        assert reader.decode(ids[1:end]) == (captions or [""])[0]


def test_targets_are_the_answers_and_nothing_else(tokenizer, examples):
    batch, placed = Packer(tokenizer, 512).batch(examples)
    for row, turns in enumerate(placed):
        expected = [
            token
            for turn in turns
            for token in [
                *tokenizer(f" {turn.answer}", add_special_tokens=False).input_ids,
                tokenizer.eos_token_id,
            ]
        ]
        targets = batch.targets[row]
        assert targets[targets != NO_TARGET].tolist() == expected


def test_an_answer_of_n_tokens_weighs_the_root_of_n(tokenizer, examples):
    batch, placed = Packer(tokenizer, 512).batch(examples)
    for row, turns in enumerate(placed):
        for number, turn in enumerate(turns, start=1):
            length = len(tokenizer(f" {turn.answer}", add_special_tokens=False).input_ids) + 1
            weight = batch.weights[row][batch.segments[row] == number].sum().item()
            assert weight == pytest.approx(length**0.5)


def test_a_turn_sees_the_prefix_and_its_own_past_only():
    mask = branch_mask(torch.tensor([[0, 0, 1, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert mask[:6] == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
    ]


def test_turns_that_do_not_fit_are_left_out(tokenizer, examples):
    full = Packer(tokenizer, 512).batch(examples)[1]
    batch, placed = Packer(tokenizer, 256).batch(examples)
    assert batch.input_ids.shape == (3, 256)
    assert all(0 < len(few) < len(many) for few, many in zip(placed, full, strict=True))


def test_hardly_a_turn_exceeds_the_default_length(tokenizer):
    packer = Packer(tokenizer, RECIPES["testbed-m"].pack_length)
    examples = [training_example(3, index) for index in range(200)]
    placed = sum(len(packer.pack(example)[1]) for example in examples)
    assert placed >= 0.995 * sum(len(example.turns) for example in examples)


def test_held_out_accuracy_is_the_exact_match_of_greedy_decoding(tokenizer, processor, model):
    """Where the reference is what the model writes, the answer is right; one other token makes it wrong."""
    example = validation_example(0, 0)
    held_out = HeldOut(Packer(tokenizer, 512), [example], batch_size=1)
    batch, placed = held_out.batches[0]
    for number, turn in enumerate(placed[0], start=1):
        text = conversation(processor, turn.prompt)
        inputs = processor(text=text, images=Image.fromarray(example.image), return_tensors="pt")
        here = ((batch.segments[0] == number) & (batch.targets[0] != NO_TARGET)).nonzero().flatten()
        config = GenerationConfig(max_new_tokens=len(here), do_sample=False, eos_token_id=-1, pad_token_id=0)
        written = model.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :]
        batch.targets[0, here] = written
        batch.input_ids[0, here + 1] = written

    def right_answers():
        accuracy = held_out.score(lambda packed: packed_logits(model, packed, seen(processor, model, packed)))
        return sum(right for right, _ in accuracy.exact.values())

    assert right_answers() == len(placed[0])
    batch.targets[0, here[-1]] += 1
    assert right_answers() == len(placed[0]) - 1


@pytest.mark.parametrize("text", ["naïve 你好 🙂\t\n x", "312", " red", "a  b   c", "<s> is not </s>"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(f"x{text}", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == f"x{text}"
    assert tokenizer.unk_token_id not in ids


def test_digits_stand_alone_and_common_words_are_whole(tokenizer):
    assert [piece.strip("Ġ") for piece in tokenizer.tokenize("3120") if piece != "Ġ"] == ["3", "1", "2", "0"]
    assert len(tokenizer.tokenize("Answer the question using a single word or phrase.")) == 10


def test_decoding_drops_the_blank_before_an_answer(tokenizer):
    ids = [*tokenizer(" red", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red"


def test_the_tokenizer_is_a_function_of_the_world(tokenizer):
    assert world_tokenizer(200).get_vocab() == tokenizer.get_vocab()


def test_prompts_as_strings_and_as_parts_are_one(processor):
    """lmms-eval's llava_hf gives strings with the image token in them; LLaVA's own template wants parts."""
    as_string = processor.tokenizer.apply_chat_template if processor.tokenizer.chat_template else None
    messages = [{"role": "user", "content": "<image>\nWhat is this?"}]
    expected = "USER: <image>\nWhat is this? ASSISTANT:"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
    assert conversation(processor, "What is this?") == expected
    assert as_string is None or as_string(messages, tokenize=False, add_generation_prompt=True) == expected


def test_an_image_becomes_144_tokens(processor):
    image = Image.fromarray(np.zeros((168, 168, 3), dtype=np.uint8))
    inputs = processor(text=conversation(processor, "x"), images=image, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == VISUAL_TOKENS == 144
    assert inputs["input_ids"][0, 0] == processor.tokenizer.bos_token_id
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
