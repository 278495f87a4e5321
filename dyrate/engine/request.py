"""What a call of the engine asks for, checked before anything runs: the prompt and the search."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.needs import Needs

_READ = ("input_ids", "attention_mask")
_OPTIONS = ("vision_feature_layer", "vision_feature_select_strategy")
"""Inputs of the encoder that are no tensors."""
_WITHOUT_EFFECT = re.compile(
    # Said by the call itself, or about memory and what is returned.
    r"max_length|max_new_tokens|(pad|bos|eos|decoder_start)_token_id|use_cache|(max_)?cache_\w+|compile_config|"
    r"disable_compile|continuous_batching_config|prefill_chunk_size|transformers_version|output_\w+|"
    r"return_dict_in_generate|"
    # Of sampling, which `do_sample` turns on; it is looked at by itself.
    r"do_sample|temperature|top_[kph]|min_p|typical_p|(epsilon|eta)_cutoff|"
    # Of beams and assistants, which others turn on; and two that leave the best token the best.
    r"early_stopping|(length|diversity)_penalty|is_assistant|num_assistant_tokens(_schedule)?|"
    r"assistant_(confidence_threshold|lookbehind|ensemble_weight)|target_lookbehind|max_matching_ngram_size|"
    r"speculation_type|renormalize_logits|remove_invalid_values"
)
"""Settings that do not change which token is taken."""
_NEUTRAL = {"min_new_tokens": 0, "guidance_scale": 1}
"""Neutral values that transformers does not state as defaults."""


def check_generation_config(config: Any, *, sampled: bool = False) -> None:
    """Raise `DyrateError` for settings under which `generate()` would take other tokens than the engine.

    The engine takes the best token of each step, or, if `sampled`, the best of what its sampler makes of the
    logits: how to sample is the sampler's business then. All settings that transformers knows have to be
    neutral, except those without effect on such a search.
    """
    neutral = GenerationConfig._get_default_generation_params() | _NEUTRAL
    wrong = [
        f"{name}={value!r}"
        for name in vars(GenerationConfig())
        if not name.startswith("_") and not _WITHOUT_EFFECT.fullmatch(name)
        if not _is_neutral(value := getattr(config, name, None), neutral.get(name))
    ]
    if getattr(config, "do_sample", None) and not sampled:
        wrong.append("do_sample=True")
    if wrong:
        raise DyrateError(
            f"the generation config says {', '.join(wrong)}, which model.generate() would follow and the "
            "graph engine cannot: use engine='transformers', or pass generation_config= without it"
        )


def _is_neutral(value: Any, default: Any) -> bool:
    return value is None or value is False or value == [] or value == default


def special_tokens(
    config: Any, eos_token_id: Any, pad_token_id: Any, vocabulary: int
) -> tuple[tuple[int, ...], int | None]:
    """Return the ids that end a row and the id of padding, as `generate()` would take them.

    Raises `DyrateError` for padding that is no token: ended rows are fed with it.
    """
    found = config.eos_token_id if eos_token_id is None else eos_token_id
    ends = () if found is None else tuple(torch.as_tensor(found).flatten().tolist())
    padding = config.pad_token_id if pad_token_id is None else pad_token_id
    if padding is None and ends:
        padding = ends[0]
    for name, values in (("eos_token_id", ends), ("pad_token_id", () if padding is None else (padding,))):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
                raise DyrateError(
                    f"{name}={value!r} is no token: the model has tokens 0..{vocabulary - 1}"
                    f"{'; pass () to let no row end' * (name == 'eos_token_id')}"
                )
    return ends, padding


def check_needs_met(method: object, needs: Needs, embedded: Collection[int], vocabulary: int) -> None:
    """Raise `DyrateError` for what a method needs at decode and the engine's kernels cannot give."""
    for token in sorted(embedded):
        if token < vocabulary:
            raise DyrateError(
                f"{method} gives token {token} of the model's vocabulary another embedding, and the graph "
                "engine reads its own where that token is generated: use engine='transformers'"
            )
    for query, key in sorted(needs.blocked):
        if query == "res" and key != "img":
            raise DyrateError(
                f"{method} hides {key!r} tokens from generated ones, which the graph engine cannot: use "
                "engine='transformers'"
            )


def check_new_tokens(new_tokens: Any) -> None:
    """Raise `DyrateError` unless it is a number of tokens to make."""
    if isinstance(new_tokens, bool) or not isinstance(new_tokens, int) or new_tokens < 1:
        raise DyrateError(f"max_new_tokens={new_tokens!r}: expected at least 1, a whole number")


def checked_inputs(
    given: Mapping[str, Any],
    device: torch.device,
    family: Family,
    ends: Sequence[int],
    padding: int | None,
) -> dict[str, Tensor]:
    """Return the processor's inputs, always with an attention mask.

    Without one it is inferred as `generate()` does: tokens of padding's id are padding, unless that id also
    ends a row. Raises `DyrateError` for inputs that the engine would not heed, for image tokens without
    images, and for a batch whose padding cannot be told from its tokens.
    """
    inputs = {name: value for name, value in given.items() if value is not None}
    known = *_READ, *family.inputs
    for name, value in inputs.items():
        if name not in known:
            raise DyrateError(f"inputs has {name!r}; the engine reads {', '.join(known)}")
        if name not in _OPTIONS and not isinstance(value, Tensor):
            raise DyrateError(f"inputs[{name!r}] is a {type(value).__name__}: a tensor is expected")
        if isinstance(value, Tensor) and value.device != device:
            raise DyrateError(f"inputs[{name!r}] is on {value.device}, the model on {device}")
    ids, pixels = inputs.get("input_ids"), inputs.get("pixel_values")
    if ids is None or ids.dim() != 2 or ids.is_floating_point() or not ids.numel():
        shape = "missing" if ids is None else f"{ids.dtype} of shape {tuple(ids.shape)}"
        raise DyrateError(f"inputs['input_ids'] is {shape}: integers of shape [rows, tokens] are expected")
    if pixels is not None and (pixels.dim() != len(family.pixels) or not pixels.numel()):
        shape = f"of shape {tuple(pixels.shape)}"
        raise DyrateError(
            f"inputs['pixel_values'] is {shape}: [{', '.join(family.pixels)}] is expected, or none"
        )
    on_host = ids.cpu()
    images = on_host == family.image_token_id
    if pixels is None and images.any():
        raise DyrateError(f"the prompts have {int(images.sum())} image tokens, but there are no pixel_values")
    if family.axes > 1 and images[:, -1].any():
        rows = images[:, -1].nonzero().flatten().tolist()
        raise DyrateError(
            f"rows {rows} end in an image, after which positions of {family.axes} axes go on differing; the "
            "graph engine has one: end prompts in text, or use engine='transformers'"
        )
    if "attention_mask" not in inputs:
        inputs["attention_mask"] = _inferred_mask(on_host, ends, padding).to(device)
    return inputs


def _inferred_mask(ids: Tensor, ends: Sequence[int], padding: int | None) -> Tensor:
    if padding is None:
        return torch.ones_like(ids)
    if padding not in ends:
        return ids.ne(padding).long()
    rows = (ids[:, 0] == padding).nonzero().flatten().tolist()
    if rows and len(ids) > 1:
        raise DyrateError(
            f"no attention_mask, and rows {rows} begin with {padding}, which is both pad_token_id and "
            "eos_token_id: pass the processor's attention_mask"
        )
    return torch.ones_like(ids)
