"""What a call asks for: the engine does it as `generate()` would, or says why it does not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BatchFeature, GenerationConfig

from dyrate.engine.engine import Engine
from dyrate.engine.request import check_generation_config
from dyrate.errors import DyrateError
from dyrate.methods.fastv import FastV
from dyrate.methods.none import NoReduction
from dyrate.reduction import DecodeView, Needs, ReductionMethod
from tests.tiny import IMAGE, PAD, tiny_inputs, tiny_llava

ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}
Inputs = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(num_layers=3)


@pytest.fixture(scope="module")
def engine(model: Any) -> Engine:
    return Engine(model)


@pytest.fixture
def inputs() -> Inputs:
    return tiny_inputs(**ROWS)


def padding_inside(inputs: Inputs) -> Inputs:
    ids = inputs["input_ids"].clone()
    ids[2, -3] = PAD
    return inputs | {"input_ids": ids, "attention_mask": None}


def hole(inputs: Inputs) -> Inputs:
    mask = inputs["attention_mask"].clone()
    mask[2, -3] = 0
    return inputs | {"attention_mask": mask}


def last_hidden(inputs: Inputs) -> Inputs:
    mask = inputs["attention_mask"].clone()
    mask[2, -1] = 0
    return inputs | {"attention_mask": mask}


def ids(change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs | {"input_ids": change(inputs["input_ids"])}


def mask(change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs | {"attention_mask": change(inputs["attention_mask"])}


def pixels(change: Callable[[Tensor], Any]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs | {"pixel_values": change(inputs["pixel_values"])}


def also(**more: Any) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs | more


SERVED: dict[str, Callable[[Inputs], Inputs]] = {
    "no mask": also(attention_mask=None),
    "no mask, padding's token in the prompt": padding_inside,
    "mask with a hole": hole,
    "mask of booleans": mask(Tensor.bool),
    "mask of floats": mask(Tensor.float),
    "ids in 32 bits": ids(Tensor.int),
    "pixels in 64 bits": pixels(Tensor.double),
    "no images": lambda _: tiny_inputs(rows=[5, 9], images=[0, 0]),
    "more and fewer images": lambda _: tiny_inputs(rows=[5, 9, 2], images=[3, 0, 1]),
    "other features": also(vision_feature_layer=-1),
    "a processor's answer": BatchFeature,
}


@pytest.mark.parametrize("method", [NoReduction(), FastV(layer=2, rate=0.5)], ids=lambda method: method.label)
@pytest.mark.parametrize("name", SERVED)
def test_prompts_are_taken_as_generate_takes_them(
    name: str, method: ReductionMethod, model: Any, engine: Engine, inputs: Inputs
) -> None:
    given = {key: value for key, value in SERVED[name](inputs).items() if value is not None}
    with method(model):
        expected = model.generate(**given, max_new_tokens=6, do_sample=False)
    assert engine.generate(method, SERVED[name](inputs), max_new_tokens=6)[0].tolist() == expected.tolist()


REFUSED: dict[str, tuple[Callable[[Inputs], Inputs], dict[str, Any], str]] = {
    "no pixels": (also(pixel_values=None), {}, "48 image tokens, but there are no pixel_values"),
    "no image tokens": (ids(lambda t: t.where(t != IMAGE, 5)), {}, "pixel_values without image tokens"),
    "pixels of no image": (pixels(lambda p: p[:0]), {}, r"pixel_values'\] is of shape \(0, 3, 16, 16\)"),
    "pixels of a video": (pixels(lambda p: p[None]), {}, r"is of shape \(1, 3, 3, 16, 16\)"),
    "list of pixels": (pixels(list), {}, r"pixel_values'\] is a list: a tensor is expected"),
    "pixels elsewhere": (pixels(lambda p: p.to("meta")), {}, "is on meta, the model on cpu"),
    "ids elsewhere": (ids(lambda t: t.to("meta")), {}, "is on meta, the model on cpu"),
    "no ids": (also(input_ids=None), {}, r"input_ids'\] is missing"),
    "one row without its batch": (ids(lambda t: t[0]), {}, r"torch.int64 of shape \(43,\)"),
    "no rows": (ids(lambda t: t[:0]), {}, r"of shape \(0, 43\)"),
    "no columns": (ids(lambda t: t[:, :0]), {}, r"of shape \(3, 0\)"),
    "ids of floats": (ids(Tensor.float), {}, "is torch.float32 of shape"),
    "unknown id": (ids(lambda t: t.where(t != 2, 64)), {}, "holds 64; the model.* 0..63 .row 0, column 14"),
    "negative id": (ids(lambda t: t.where(t != 2, -200)), {}, "holds -200; .* .row 0, column 14"),
    "mask of another prompt": (mask(lambda m: m[:, 1:]), {}, r"attention_mask has shape \(3, 42\)"),
    "mask of fewer rows": (mask(lambda m: m[:1]), {}, r"attention_mask has shape \(1, 43\)"),
    "mask for heads": (mask(lambda m: m[:, None, None]), {}, "attention_mask has shape"),
    "padding on the right": (last_hidden, {}, "pad on the left"),
    "padding ends rows": (
        also(attention_mask=None),
        {"eos_token_id": [5, PAD]},
        r"rows \[0, 2\] begin with 0, which is both pad_token_id and eos_token_id",
    ),
    **{
        f"input {name}": (also(**{name: torch.zeros(3, 43).long()}), {}, f"inputs has '{name}'")
        for name in ("token_type_ids", "position_ids", "labels", "inputs_embeds", "atention_mask")
    },
    **{
        f"{value!r} tokens": (also(), {"max_new_tokens": value}, f"max_new_tokens={value!r}: expected at le")
        for value in (0, -1, True, 2.0, "2", None)
    },
    **{
        f"eos {value!r}": (also(), {"eos_token_id": value}, "eos_token_id=.* is no token")
        for value in (64, -1, [3, 99], 1.5)
    },
    "padding of no token": (also(), {"pad_token_id": 64}, "pad_token_id=64 is no token: .* 0..63"),
    "layer to record": (also(), {"record": [3]}, "no layer 3; the model has layers 0..2"),
    "sampler of another shape": (
        also(),
        {"sampler": lambda ids, logits: logits[:, :10]},
        r"sampler returned shape \(3, 10\): scores of shape \(3, 64\)",
    ),
    "sampler of tokens": (
        also(),
        {"sampler": lambda ids, logits: logits.argmax(-1)},
        r"sampler returned shape \(3,\)",
    ),
    "sampler of nothing": (also(), {"sampler": lambda ids, logits: None}, "sampler returned NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_prompts_that_generate_would_take_otherwise_are_refused(
    name: str, engine: Engine, inputs: Inputs
) -> None:
    change, options, message = REFUSED[name]
    with pytest.raises(DyrateError, match=message):
        engine.generate(NoReduction(), change(inputs), **{"max_new_tokens": 3, **options})
    engine.generate(NoReduction(), inputs, max_new_tokens=2)  # nothing is left of it


def test_rows_of_a_prompt_may_begin_with_what_ends_them(model: Any, engine: Engine) -> None:
    inputs = tiny_inputs()
    inputs["input_ids"][0, 0] = PAD
    options = {"eos_token_id": PAD, "pad_token_id": PAD, "max_new_tokens": 4}
    del inputs["attention_mask"]
    expected = model.generate(**inputs, **options, do_sample=False)
    assert engine.generate(NoReduction(), inputs, **options)[0].tolist() == expected.tolist()


UNLIKE_GREEDY = {
    "repetition_penalty": 1.5,
    "encoder_repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "min_new_tokens": 3,
    "min_length": 60,
    "suppress_tokens": [5],
    "begin_suppress_tokens": [5],
    "bad_words_ids": [[5]],
    "sequence_bias": [[[5], 2.0]],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 0,
    "exponential_decay_length_penalty": (2, 1.5),
    "guidance_scale": 2.0,
    "num_beams": 2,
    "num_return_sequences": 2,
    "do_sample": True,
    "penalty_alpha": 0.5,
    "prompt_lookup_num_tokens": 2,
    "assistant_early_exit": 2,
    "stop_strings": ["."],
    "max_time": 1.0,
    "token_healing": True,
    "dola_layers": "low",
}
LIKE_GREEDY = {
    "temperature": 0.2,
    "top_p": 0.6,
    "top_k": 50,
    "max_length": 4096,
    "use_cache": False,
    "length_penalty": 2.0,
    "return_dict_in_generate": True,
    "output_attentions": True,
    "renormalize_logits": True,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
    "num_beams": 1,
    "do_sample": False,
    "suppress_tokens": [],
    "chat_format": "chatml",
}


@contextmanager
def saying(model: Any, **settings: Any) -> Iterator[None]:
    before = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    try:
        yield
    finally:
        model.generation_config = before


@pytest.mark.parametrize("name", UNLIKE_GREEDY)
def test_settings_of_the_checkpoint_are_not_left_out_silently(
    name: str, model: Any, engine: Engine, inputs: Inputs
) -> None:
    with saying(model, **{name: UNLIKE_GREEDY[name]}):
        with pytest.raises(DyrateError, match=f"generation config says {name}="):
            engine.generate(NoReduction(), inputs, max_new_tokens=3)
        own = GenerationConfig(pad_token_id=PAD)
        found, _ = engine.generate(NoReduction(), inputs, max_new_tokens=3, generation_config=own)
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert found.tolist() == expected.tolist()


def test_settings_without_effect_are_no_obstacle(model: Any, engine: Engine, inputs: Inputs) -> None:
    with saying(model, **LIKE_GREEDY):
        found, _ = engine.generate(NoReduction(), inputs, max_new_tokens=3)
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert found.tolist() == expected.tolist()


def test_every_setting_that_transformers_knows_is_looked_at() -> None:
    check_generation_config(GenerationConfig())
    defaults = GenerationConfig()
    for name, value in GenerationConfig._get_default_generation_params().items():
        setattr(defaults, name, value)
    check_generation_config(defaults)
    check_generation_config(GenerationConfig(do_sample=True, temperature=0.5), sampled=True)
    with pytest.raises(DyrateError, match=r"says num_beams=2, repetition_penalty=1\.5"):
        check_generation_config(GenerationConfig(num_beams=2, repetition_penalty=1.5), sampled=True)


def test_the_given_configuration_ends_rows(model: Any, engine: Engine, inputs: Inputs) -> None:
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    config = GenerationConfig(eos_token_id=[int(token) for token in made[:, 2]], pad_token_id=PAD)
    expected = model.generate(**inputs, max_new_tokens=8, generation_config=config)
    found, _ = engine.generate(NoReduction(), inputs, max_new_tokens=8, generation_config=config)
    assert found.tolist() == expected.tolist()


def test_one_call_at_a_time(engine: Engine, inputs: Inputs) -> None:
    expected, _ = engine.generate(NoReduction(), inputs, max_new_tokens=4)
    entered, go_on, errors = Event(), Event(), []

    def wait() -> None:
        entered.set()
        assert go_on.wait(60)

    def second() -> None:
        assert entered.wait(60)
        try:
            engine.generate(NoReduction(), inputs, max_new_tokens=4)
        except DyrateError as error:
            errors.append(str(error))
        finally:
            go_on.set()

    other = Thread(target=second)
    other.start()
    found, _ = engine.generate(NoReduction(), inputs, max_new_tokens=4, on_step=wait)
    other.join()
    assert errors == ["this engine is generating already: one call at a time, from one thread"]
    assert found.tolist() == expected.tolist()

    def again() -> None:
        engine.generate(NoReduction(), inputs, max_new_tokens=4)

    with pytest.raises(DyrateError, match="generating already"):
        engine.generate(NoReduction(), inputs, max_new_tokens=4, on_step=again)
    assert engine.generate(NoReduction(), inputs, max_new_tokens=4)[0].tolist() == expected.tolist()


def test_blocks_of_methods_are_refused(model: Any, engine: Engine, inputs: Inputs) -> None:
    with FastV(layer=2, rate=0.5)(model):
        with pytest.raises(DyrateError, match="inside a with block of a reduction method"):
            engine.generate(NoReduction(), inputs, max_new_tokens=2)
        with pytest.raises(DyrateError, match="inside a with block of a reduction method"):
            Engine(model)
    engine.generate(NoReduction(), inputs, max_new_tokens=2)


@dataclass(frozen=True)
class Counting(ReductionMethod):
    """Keeps one token less at each step, counted from the first decode step on; fails on request."""

    fails_at: int = -1

    def needs(self, depth: int) -> Needs:
        return Needs(decode=(1,))

    def decode(self, view: DecodeView) -> Tensor:
        if view.step == self.fails_at:
            raise OSError("no more")
        steps = view.state.get("steps", torch.zeros(len(view.present), 1)) + 1
        view.state["steps"] = steps
        return view.present & (torch.arange(view.present.shape[1]) >= steps)


def test_a_prompt_finds_no_state_of_the_one_before(model: Any, engine: Engine, inputs: Inputs) -> None:
    method = Counting()
    with method(model) as run:
        expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    for _ in range(2):
        found, made = engine.generate(method, inputs, max_new_tokens=8)
        assert found.tolist() == expected.tolist()
        assert torch.equal(made.decode_tokens_per_row, run.decode_tokens_per_row)


def test_a_call_that_fails_leaves_nothing_behind(model: Any, engine: Engine, inputs: Inputs) -> None:
    expected, _ = engine.generate(Counting(), inputs, max_new_tokens=8)
    with pytest.raises(OSError, match="no more"):
        engine.generate(Counting(fails_at=3), inputs, max_new_tokens=8)
    assert engine.generate(Counting(), inputs, max_new_tokens=8)[0].tolist() == expected.tolist()
