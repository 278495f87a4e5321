"""What was loaded, held against its checkpoint: weights that are all there, and a processor that fits.

transformers draws absent weights at random, and leaves out what does not fit, with no more than a warning.
"""

from collections.abc import Collection, Mapping
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import CONFIG, complaints, few
from dyrate.families import family_of


def check_keys(folder: Path, loaded: Mapping[str, Collection[Any]], replaced: str | None = None) -> None:
    """Raise `DyrateError` unless the weights were exactly those of the model; the part `replaced` may lack
    its own.

    `loaded` is what `from_pretrained(..., output_loading_info=True)` says: tied weights, and what
    transformers itself lets a checkpoint lack or have besides, are not in it.
    """
    missing = {name for name in loaded["missing_keys"] if replaced not in name.split(".")}
    mismatched = [
        f"{name} ({list(stored)} stored, {list(expected)} by {CONFIG})"
        for name, stored, expected in loaded["mismatched_keys"]
    ]
    faults = [
        f"{what} {few(names)}"
        for what, names in (
            ("lacks", missing),
            ("has, beyond the model,", loaded["unexpected_keys"]),
            ("has in another shape", mismatched),
            ("cannot be read:", loaded["error_msgs"]),
        )
        if names
    ]
    if faults:
        cure = f"Weights and {CONFIG} must be of one model, and adapters merged into it"
        if missing and all("multi_modal_projector" in name for name in missing):
            cure += "; the base of a converted connector is loaded by the connector's folder"
        raise DyrateError(f"--model {folder}: the checkpoint {'; '.join(faults)}. {cure}")


def check_placed(folder: Path, model: Any, device: torch.device) -> None:
    """Raise `DyrateError` where parts of a model that should be on GPUs were left elsewhere, for want of
    room: each step would fetch them anew.
    """
    places = getattr(model, "hf_device_map", {})
    left = [name for name, place in places.items() if str(place) in ("cpu", "disk")]
    if device.type == "cuda" and left:
        raise DyrateError(
            f"--model {folder}: the GPUs that are visible have no room for {few(left)}: give it more of them "
            "(--device-map auto), or fewer bits (--bits 8, --bits 4)"
        )


def check_finite(folder: Path, model: Any) -> None:
    """Raise `DyrateError` for a parameter or buffer with NaN or an infinity; waits once for the device."""
    named = {
        name: tensor.detach()
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
        if tensor.is_floating_point() and tensor.numel()
    }
    # Extremes are NaN where anything is, and cost a tenth of `isfinite` on a CPU.
    extremes = [torch.stack(torch.aminmax(tensor)).float().to(model.device) for tensor in named.values()]
    finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
    if bad := [name for name, fine in zip(named, finite, strict=True) if not fine]:
        dtype = str(model.dtype).removeprefix("torch.")
        other = (
            "numbers too large for float16 (try bfloat16)"
            if dtype == "float16"
            else f"a setting of {CONFIG} that leads to such numbers"
        )
        raise DyrateError(
            f"--model {folder}: NaN or infinity, as {dtype}, in {few(bad)}: damaged weights, or {other}"
        )


def check_processor(folder: Path, processor: Any, config: Any) -> None:
    """Raise `DyrateError` unless the processor is one for `config`: its image token, its fields, its ids."""
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise DyrateError(
            f"{folder}: its processor is a {type(processor).__name__}; expected one with image processor and "
            "tokenizer (processor_config.json or preprocessor_config.json)"
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        raise DyrateError(
            f"{folder}: the tokenizer has neither pad_token nor eos_token (tokenizer_config.json)"
        )
    token, rows = getattr(processor, "image_token", None), config.text_config.vocab_size
    known = tokenizer.get_vocab()
    expected = getattr(config, "image_token_id", None)
    if token is not None and expected is not None and known.get(token) != expected:
        raise DyrateError(
            f"{folder}: the processor's image token {token!r} has the id {known.get(token)} in the "
            f"tokenizer, and by {CONFIG} it is {expected}"
        )
    if (largest := max(known, key=known.__getitem__)) and known[largest] >= rows:
        raise DyrateError(
            f"{folder}: the tokenizer is larger than the embedding: token {largest!r} has the id "
            f"{known[largest]}, and {CONFIG} a vocab_size of {rows}; resize_token_embeddings() is the cure"
        )
    for name, value in (
        ("patch_size", getattr(config.vision_config, "patch_size", None)),
        ("vision_feature_select_strategy", getattr(config, "vision_feature_select_strategy", None)),
    ):
        if hasattr(processor, name) and getattr(processor, name) is None:
            raise DyrateError(f"{folder / 'processor_config.json'}: no {name}; by {CONFIG} it is {value!r}")


def check_vision(folder: Path, processor: Any, model: Any) -> None:
    """Encode one grey image, and raise `DyrateError` unless it makes a feature for each of its image tokens.

    Also raises it for pixels or features that are not finite.
    """
    family = family_of(model)
    token = processor.image_token
    with complaints(f"--model {folder}: its processor cannot read an image"):
        inputs = processor(images=[Image.new("RGB", (64, 64), "grey")], text=[token], return_tensors="pt")
        wanted = signature(model.model.get_image_features).parameters
        pixels = {name: value for name, value in inputs.items() if name in wanted}
        finite = bool(pixels["pixel_values"].isfinite().all())
    if not finite:
        raise DyrateError(f"{folder}: its image processor makes NaN or infinity of a grey image (mean, std)")
    with complaints(f"--model {folder}: its vision encoder cannot read an image"), torch.no_grad():
        moved = inputs.__class__(pixels).to(model.device, model.dtype)
        features = torch.cat(family.features(model.model.get_image_features(**moved)))
    placeholders = int((inputs["input_ids"] == family.image_token_id).sum())
    if len(features) != placeholders:
        raise DyrateError(
            f"--model {folder}: the processor writes {placeholders} image tokens for an image, and the model "
            f"makes {len(features)} features of it; compare patch_size, num_additional_image_tokens and "
            f"vision_feature_select_strategy of processor_config.json with {CONFIG}"
        )
    if not bool(features.isfinite().all()):
        dtype = str(model.dtype).removeprefix("torch.")
        raise DyrateError(
            f"--model {folder}: the vision encoder makes NaN or infinity of a grey image, in {dtype}"
        )
