"""What generation under token reduction refuses, with the reason and what to do instead."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from dyrate.cache import ReducedCache
from dyrate.errors import DyrateError

_DYNAMIC_CACHES = (None, "dynamic")
_NO_GUIDANCE = 1
_REFUSED_ARGUMENTS = {
    "prefill_chunk_size": "prefill chunking would reduce each chunk by itself; pass the prompt whole",
    "assistant_model": "assisted decoding rolls the cache back, and dropped tokens do not come back",
    "assistant_early_exit": "assisted decoding rolls the cache back, and dropped tokens do not come back",
    "prompt_lookup_num_tokens": "assisted decoding rolls the cache back, and dropped tokens do not come back",
    "guidance_scale": "classifier-free guidance runs a second prompt through the model between the steps of "
    "the first, and each would take the other's reduced cache for its own",
    "negative_prompt_ids": "it belongs to classifier-free guidance, which runs a second prompt through the "
    "model; leave it out",
    "inputs_embeds": "the classes of tokens are read off input_ids; pass input_ids and pixel_values",
    "output_attentions": "it would make every layer build its whole attention matrix; "
    "use `record=` and `run.class_mass` for the attention mass of the newest query",
}


def check_generate(arguments: Mapping[str, Any], default_config: Any) -> None:
    """Raise `DyrateError` for arguments of `generate()`, or of the model's own config, that are refused."""
    configs = [
        config for config in (arguments.get("generation_config"), default_config) if config is not None
    ]

    def requested(name: str) -> Any:
        if arguments.get(name) is not None:
            return arguments[name]
        return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)

    for name, reason in _REFUSED_ARGUMENTS.items():
        value = requested(name)
        off = value is None or value is False or (name == "guidance_scale" and value == _NO_GUIDANCE)
        if not off:
            raise DyrateError(f"generate({name}=...) is not supported under token reduction: {reason}")
    if requested("use_cache") is False:
        raise DyrateError(
            "generate(use_cache=False) is not supported under token reduction, which reduces the cache"
        )
    if requested("cache_implementation") not in _DYNAMIC_CACHES:
        raise DyrateError(
            f"generate(cache_implementation={requested('cache_implementation')!r}) is not supported "
            "under token reduction: layers and rows hold different tokens, so leave it out"
        )
    if arguments.get("past_key_values") is not None:
        raise DyrateError(
            "generate(past_key_values=...) is not supported under token reduction: pass the whole prompt "
            "without a cache; a reduced cache cannot be continued by a second generate()"
        )


def check_forward(inputs: Mapping[str, Any]) -> None:
    """Raise `DyrateError` for arguments of the model's forward that cannot be served."""
    if inputs.get("input_ids") is None:
        raise DyrateError("inputs_embeds without input_ids: the classes of tokens are read off input_ids")
    if inputs.get("use_cache") is False:
        raise DyrateError(
            "use_cache=False is not supported under token reduction, which reduces the KV cache"
        )
    if inputs.get("output_attentions"):
        raise DyrateError(f"output_attentions is not supported: {_REFUSED_ARGUMENTS['output_attentions']}")
    if inputs.get("labels") is not None:
        raise DyrateError(
            "labels are not supported: dropped tokens have no logits, so no loss can be computed"
        )


def check_checkpointing(layers: Iterable[nn.Module]) -> None:
    """Raise `DyrateError` if gradient checkpointing would take the cache away from a decoder layer."""
    if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers):
        raise DyrateError(
            "gradient checkpointing in train mode is not supported under token reduction: the decoder layers "
            "would run without the KV cache; call model.eval()"
        )


def check_prefill_cache(cache: Any, replaced: Any) -> None:
    """Raise `DyrateError` unless a prefill may put its own cache in the place of `cache`.

    `replaced` is the cache whose place the last prefill took.
    """
    if cache is None:
        return
    if isinstance(cache, ReducedCache):
        raise DyrateError(
            "this reduced KV cache belongs to another run, or a later prefill has taken its place; "
            "start again from the whole prompt"
        )
    if cache is replaced:
        raise DyrateError(
            "this empty cache was replaced by a reduced one at prefill: pass on the output's past_key_values"
        )
    offloading = bool(getattr(cache, "offloading", False))
    if type(cache) is not DynamicCache or offloading:
        raise DyrateError(
            f"a KV cache of type {type(cache).__name__}{' with offloading' * offloading} is not supported "
            "under token reduction; pass none, and a reduced cache is made"
        )
    if cache.get_seq_length() > 0:
        raise DyrateError(
            f"past_key_values already holds {cache.get_seq_length()} tokens that were not reduced; "
            "start from the whole prompt inside the with block"
        )


def check_decode(input_ids: Tensor, attention_mask: Tensor | None, cache: ReducedCache) -> None:
    """Raise `DyrateError` unless a forward with `cache` is one decode step of the prefilled batch.

    Of the mask only the shape is checked: reading its values would make the host wait for the device at every
    step. What the prompt's mask hid or showed at prefill stays so.
    """
    if getattr(cache, "_is_user_defined", False):
        raise DyrateError(
            "a reduced KV cache cannot be continued by a second generate(); pass the whole prompt anew"
        )
    rows = len(cache.layout.classes)
    if tuple(input_ids.shape) != (rows, 1):
        raise DyrateError(
            f"input_ids of shape {tuple(input_ids.shape)} with a reduced KV cache of {rows} rows: only one "
            "new token per row can follow the prefill (no prefill chunking, no assisted decoding)"
        )
    if attention_mask is not None and tuple(attention_mask.shape) != (rows, cache.seen + 1):
        raise DyrateError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected {(rows, cache.seen + 1)}: the "
            "prompt's mask, then a 1 for every token generated since"
        )
