"""What generation under token reduction refuses, with the reason and what to do instead."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dyrate.attention import ATTENTION, ForwardPass
from dyrate.cache import ReducedCache
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.needs import Needs
from dyrate.tokens import TokenClass, TokenLayout

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
    configs = arguments.get("generation_config"), default_config

    def requested(name: str) -> Any:
        values = (arguments.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    for name, reason in _REFUSED_ARGUMENTS.items():
        value = requested(name)
        off = value is None or value is False or (name == "guidance_scale" and value == _NO_GUIDANCE)
        if not off:
            raise DyrateError(f"generate({name}=...) is not supported under token reduction: {reason}")
    if arguments.get("use_cache") is False:
        raise DyrateError(
            "generate(use_cache=False) is not supported under token reduction, which reduces the cache"
        )
    if requested("cache_implementation") not in _DYNAMIC_CACHES:
        raise DyrateError(
            f"generate(cache_implementation={requested('cache_implementation')!r}) is not supported "
            "under token reduction: layers and rows hold different tokens, so leave it out"
        )
    if isinstance(arguments.get("past_key_values"), ReducedCache):
        raise DyrateError(
            "a reduced KV cache cannot be continued by a second generate(); pass the whole prompt anew, "
            "without a cache"
        )
    check_prefill_cache(arguments.get("past_key_values"), None)


def check_forward(inputs: Mapping[str, Any], model_config: Any, family: Family) -> None:
    """Raise `DyrateError` for arguments of the model's forward and states of its parts that are refused."""
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        raise DyrateError(
            "a forward inside a with block cannot be traced or exported: what is kept depends on the prompt; "
            "torch.compile works"
        )
    if inputs.get("input_ids") is None:
        raise DyrateError("inputs_embeds without input_ids: the classes of tokens are read off input_ids")
    for name in ("input_ids", "attention_mask"):
        if not isinstance(inputs.get(name), Tensor | None):
            raise DyrateError(f"{name} is a {type(inputs[name]).__name__}; a tensor is expected")
    if inputs["input_ids"].dtype not in (torch.int64, torch.int32):
        raise DyrateError(f"input_ids is of {inputs['input_ids'].dtype}; token ids are torch.int64")
    if inputs.get("use_cache") is False:
        raise DyrateError(
            "use_cache=False is not supported under token reduction, which reduces the KV cache"
        )
    attentions = inputs.get("output_attentions")
    if attentions is None:
        configs = (model_config, family.text_config)
        attentions = any(getattr(config, "output_attentions", False) for config in configs)
    if attentions:
        raise DyrateError(f"output_attentions is not supported: {_REFUSED_ARGUMENTS['output_attentions']}")
    if inputs.get("labels") is not None:
        raise DyrateError(
            "labels are not supported: dropped tokens have no logits, so no loss can be computed"
        )
    check_attention(family)
    if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in family.layers):
        raise DyrateError(
            "gradient checkpointing in train mode is not supported under token reduction: the decoder layers "
            "would run without the KV cache; call model.eval()"
        )


def check_attention(family: Family) -> None:
    """Raise `DyrateError` unless every attention of the text model is still that of token reduction."""
    for index, layer in enumerate(family.layers):
        used = layer.self_attn.config._attn_implementation
        if used != ATTENTION:
            raise DyrateError(
                f"layer {index} of the text model has the attention implementation {used!r}, which was set "
                "inside the with block and knows nothing of dropped tokens and padding; set it outside"
            )


def check_ran(forward: ForwardPass, layers: int) -> None:
    """Raise `DyrateError` unless the attention of token reduction ran in the first `layers` layers."""
    if len(forward.ran) != layers:
        missing = sorted(set(range(layers)) - forward.ran)
        raise DyrateError(
            f"layers {missing} ran without the attention of token reduction: a module in their place, a "
            "forward put over theirs, or one layer that stands in two places, is not supported"
        )


def check_compression(layout: TokenLayout, needs: Needs, label: str) -> None:
    """Raise `DyrateError` for a row whose image nobody would see, for want of the tokens that alone may."""
    if not needs.compression_tokens or ("ins", "img") not in needs.blocked:
        return
    for row, (image, tokens) in enumerate(
        zip(layout.visual_tokens.tolist(), layout.compression.sum(1).tolist(), strict=True)
    ):
        if image and not tokens:
            raise DyrateError(
                f"{label} hides images behind the tokens {list(needs.compression_tokens)}, and row {row} has "
                "an image "
                "and none of them: is this a model whose processor writes them?"
            )


def check_prompt(
    inputs: Mapping[str, Any],
    layout: TokenLayout,
    image_tokens: int,
    vocabulary: int,
    embedded: Collection[int] = (),
) -> None:
    """Raise `DyrateError` unless a prompt's token ids are known, and images come with image tokens.

    `image_tokens` counts those that the attention mask hides, too; `embedded` are ids beyond the vocabulary
    that a method has embeddings for.
    """
    ids = inputs["input_ids"].cpu()
    unknown = (ids < 0) | (ids >= vocabulary)
    for token in embedded:
        unknown &= ids != token
    for row, column in unknown.nonzero().tolist():
        raise DyrateError(
            f"input_ids holds {ids[row, column]}; the model's vocabulary has the ids 0..{vocabulary - 1} "
            f"(row {row}, column {column}): do tokenizer and model belong together?"
        )
    pixels = inputs.get("pixel_values")
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("image")
    images = encoded is not None or (pixels is not None and len(pixels) > 0)
    if layout.num_visual and not images:
        raise DyrateError(
            f"the prompt has {layout.visual_tokens.tolist()} image tokens per row, but no image: "
            "pass pixel_values"
        )
    if images and not image_tokens:
        raise DyrateError(
            "pixel_values without image tokens: the prompt shows no image; put the processor's image token "
            "into the text"
        )


def check_positions(position_ids: Tensor | None, layout: TokenLayout) -> None:
    """Raise `DyrateError` unless positions that will be renumbered are consecutive in each row."""
    if position_ids is None:
        return
    if position_ids.dim() == 3:  # the text's own, then three axes, whose gaps are the images'
        position_ids = position_ids[0]
    tokens = layout.classes != TokenClass.PADDING
    offset = position_ids - tokens.cumsum(dim=1)
    if bool(((offset != offset[:, -1:]) & tokens).any()):
        raise DyrateError(
            "position_ids has gaps, which a method that numbers the kept tokens anew would close; leave "
            "position_ids out, or choose a method that keeps original positions"
        )


def check_logits_to_keep(wanted: Any, layout: TokenLayout) -> None:
    """Raise `DyrateError` for a tensor of positions of which some may be those of other tokens after a drop.

    An integer counts the newest tokens that reach the last layer.
    """
    if not isinstance(wanted, Tensor) or not layout.num_visual:
        return
    visual = layout.classes == TokenClass.IMG
    text_after = int((visual.flip(1).cumsum(dim=1) == 0).sum(dim=1).min())
    if wanted.dtype == torch.bool or bool(((wanted >= 0) | (wanted < -text_after)).any()):
        raise DyrateError(
            "logits_to_keep as a tensor names positions of the whole prompt, and dropped tokens have no "
            f"logits: pass an integer, or positions counted from the end, -{text_after}..-1 for this prompt"
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


def check_decode(inputs: Mapping[str, Any], cache: ReducedCache) -> None:
    """Raise `DyrateError` unless a forward with `cache` is one decode step of the prefilled batch.

    Of the mask only the shape is checked: reading its values would make the host wait for the device at every
    step. What the prompt's mask hid or showed at prefill stays so.
    """
    if getattr(cache, "_is_user_defined", False):
        raise DyrateError(
            "a reduced KV cache cannot be continued by a second generate(); pass the whole prompt anew"
        )
    if cache.incoming:
        raise DyrateError(
            "the last forward with this reduced KV cache failed half-way, so that some layers hold a token "
            "that others do not; start again from the whole prompt"
        )
    if inputs.get("pixel_values") is not None or (inputs.get("mm_encoder_outputs") or {}).get("image"):
        raise DyrateError(
            "pixel_values with a reduced KV cache: images belong to the prompt; pass the whole prompt anew, "
            "without a cache"
        )
    input_ids, attention_mask = inputs["input_ids"], inputs.get("attention_mask")
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


def check_answer(method: Any, keep: Any, present: Tensor) -> None:
    """Raise `DyrateError` unless `keep` is a mask of the visual tokens, like `present`."""
    wanted = f"a mask of the visual tokens to keep, torch.bool of shape {tuple(present.shape)}, is expected"
    if not isinstance(keep, Tensor):
        raise DyrateError(f"{method} returned a {type(keep).__name__}; {wanted}")
    if keep.dtype != present.dtype or keep.shape != present.shape:
        raise DyrateError(f"{method} returned a {keep.dtype} tensor of shape {tuple(keep.shape)}; {wanted}")
    if keep.device != present.device:
        raise DyrateError(f"{method} returned a mask on {keep.device}; {wanted} on {present.device}")
