"""What a checkpoint must be, so that what is scored is that checkpoint: its files, weights and processor.

transformers loads much that is no such thing: absent weights are drawn at random, a broken
`generation_config.json` counts as none, and the sizes in `config.json` are allocated before they are compared.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError, safe_open

from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.files import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_MODEL_FILES = (CONFIG, "generation_config.json")
_PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What only makes sense above 0; many models would run with less, and say nothing.
_POSITIVE = re.compile(
    r"(hidden|intermediate|vocab|image|patch)_size|num_(hidden_layers|attention_heads|key_value_heads|channels)"
    r"|head_dim|max_position_embeddings|(rms|layer)_norm_eps|rope_theta|factor"
)
# What the libraries raise for a damaged checkpoint, as tried; the tokenizers' own errors are plain `Exception`.
_COMPLAINTS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError) + (
    AssertionError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
_LONGEST = 300
_NAMED = 3


@contextmanager
def complaints(where: str) -> Iterator[None]:
    """Turn what a library says against a checkpoint into a `DyrateError` of one line, which begins with `where`.

    Meant for one call of a library: a mistake of ours in the block would look like one of the checkpoint.
    """
    try:
        yield
    except DyrateError:
        raise
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, _COMPLAINTS):
            raise
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        raise DyrateError(f"{where}: {type(error).__name__}: {text}") from error


def check_config(folder: Path) -> Any:
    """Return the checkpoint's configuration.

    Raises `DyrateError` where `config.json` is absent or damaged, describes no vision-language model, or has
    a number that no model can have; where the weights are an adapter's; and where they are quantized.
    """
    from transformers import AutoConfig

    path = folder / CONFIG
    values = _mapping(path)
    for name in _MODEL_FILES[1:]:
        _mapping_if_there(folder / name)
    if (folder / "adapter_config.json").exists():
        raise DyrateError(
            f"{folder}: holds an adapter (adapter_config.json); merge it into its model (PEFT's "
            "merge_and_unload()) and save that"
        )
    if values.get("quantization_config"):
        raise DyrateError(
            f"{path}: quantization_config: quantized weights are not supported, as scores and times would "
            "be labelled with a dtype that they do not have; use the checkpoint that was quantized"
        )
    for key, value in _numbers(values):
        if _POSITIVE.fullmatch(key.rpartition(".")[2]) and value <= 0:
            raise DyrateError(f"{path}: {key} is {value}, expected more than 0")
    with complaints(str(path)):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "vision_config", None) is None or getattr(config, "text_config", None) is None:
        raise DyrateError(
            f"{path}: model_type {config.model_type!r} is no vision-language model: there is no vision_config "
            "beside a text_config"
        )
    return config


def check_weight_files(folder: Path, config: Any) -> None:
    """Raise `DyrateError` where files of weights are absent, damaged, no floats, or too few for `config`."""
    weights: dict[str, list[int]] = {}
    for path in _weight_files(folder):
        with complaints(f"{path}: damaged or cut off"), safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            shapes = {name: (value.get_shape(), value.get_dtype()) for name, value in found.items()}
        for name, (shape, dtype) in shapes.items():
            if "F" not in dtype and name.endswith((".weight", ".bias")):
                raise DyrateError(f"{path}: {name} is stored as {dtype}; expected floating-point weights")
            weights[name] = shape
    stored = sum(map(_product, weights.values()))
    for part in ("text_config", "vision_config"):
        layers = getattr(getattr(config, part), "num_hidden_layers", 0)
        if layers > len(weights):
            raise DyrateError(
                f"{folder / CONFIG}: {part}.num_hidden_layers is {layers}, but there are only {len(weights)} "
                f"tensors in the weights"
            )
    if (described := _parameters(folder, config)) > 2 * stored:
        raise DyrateError(
            f"{folder / CONFIG}: describes a model of {described:,} parameters, but the weights hold only "
            f"{stored:,} numbers"
        )


def check_processor_files(folder: Path) -> None:
    """Raise `DyrateError` for a file of the processor or tokenizer that is not what its name says."""
    for name in _PROCESSOR_FILES:
        _mapping_if_there(folder / name)
    for path in folder.glob("*.jinja"):
        with complaints(str(path)):
            path.read_text("utf-8")


def check_keys(folder: Path, loaded: Mapping[str, Collection[Any]]) -> None:
    """Raise `DyrateError` unless the weights were exactly those of the model.

    `loaded` is what `from_pretrained(..., output_loading_info=True)` says: tied weights, and what transformers
    itself lets a checkpoint lack or have besides, are not in it.
    """
    mismatched = [
        f"{name} ({list(stored)} stored, {list(expected)} by {CONFIG})"
        for name, stored, expected in loaded["mismatched_keys"]
    ]
    faults = [
        f"{what} {_few(names)}"
        for what, names in (
            ("lacks", loaded["missing_keys"]),
            ("has, beyond the model,", loaded["unexpected_keys"]),
            ("has in another shape", mismatched),
            ("cannot be read:", loaded["error_msgs"]),
        )
        if names
    ]
    if faults:
        raise DyrateError(
            f"--model {folder}: the checkpoint {'; '.join(faults)}. Weights and {CONFIG} are not of one model"
        )


def check_finite(folder: Path, model: Any) -> None:
    """Raise `DyrateError` for a parameter or buffer with NaN or an infinity; waits once for the device."""
    named = {
        name: tensor.detach()
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
        if tensor.is_floating_point() and tensor.numel()
    }
    # Extremes are NaN where anything is, and cost a tenth of `isfinite` on a CPU.
    extremes = [torch.stack(torch.aminmax(tensor)).float() for tensor in named.values()]
    finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
    if bad := [name for name, fine in zip(named, finite, strict=True) if not fine]:
        dtype = str(model.dtype).removeprefix("torch.")
        cure = "numbers too large for float16 (try bfloat16)" if dtype == "float16" else "a rope setting"
        raise DyrateError(
            f"--model {folder}: NaN or infinity, as {dtype}, in {_few(bad)}: damaged weights, or {cure}"
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
            f"{folder}: the processor's image token {token!r} has the id {known.get(token)} in the tokenizer, and "
            f"by {CONFIG} it is {expected}"
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

    Also raises it for a model that no family adapter knows, and for pixels or features that are not finite.
    """
    family = family_of(model)
    token = processor.image_token
    with complaints(f"--model {folder}: its processor cannot read an image"):
        inputs = processor(images=[Image.new("RGB", (64, 64), "grey")], text=[token], return_tensors="pt")
        pixels = {name: value for name, value in inputs.items() if name in ("pixel_values", "image_sizes")}
        finite = bool(pixels["pixel_values"].isfinite().all())
    if not finite:
        raise DyrateError(f"{folder}: its image processor makes NaN or infinity of a grey image (mean, std)")
    seen: list[torch.Tensor] = []
    hook = family.projector.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with complaints(f"--model {folder}: its vision encoder cannot read an image"), torch.no_grad():
            moved = inputs.__class__(pixels).to(model.device, model.dtype)
            model.get_image_features(**moved)
    finally:
        hook.remove()
    features, placeholders = seen[0], int((inputs["input_ids"] == family.image_token_id).sum())
    if features.shape[-2] != placeholders:
        raise DyrateError(
            f"--model {folder}: the processor writes {placeholders} image tokens for an image, and the model "
            f"makes {features.shape[-2]} features of it; compare patch_size, num_additional_image_tokens and "
            f"vision_feature_select_strategy of processor_config.json with {CONFIG}"
        )
    if not bool(features.isfinite().all()):
        dtype = str(model.dtype).removeprefix("torch.")
        raise DyrateError(
            f"--model {folder}: the vision encoder makes NaN or infinity of a grey image, in {dtype}"
        )


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers takes the weights from: all lie in the folder, whose hash names them."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise DyrateError(f"--model {folder}: neither {WEIGHTS} nor {INDEX}, of which one must be there")
    shards = _mapping(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(n, str) for n in shards.values()):
        raise DyrateError(f"{folder / INDEX}: weight_map should name a file for each tensor")
    names = set(shards.values())
    if absent := names - {path.name for path in folder.glob("*.safetensors")}:
        raise DyrateError(f"{folder / INDEX}: names {_few(absent)}, not in the folder; download it again")
    return [folder / name for name in sorted(names)]


def _parameters(folder: Path, config: Any) -> int:
    """How many numbers the model has that `config` describes; none of them is made."""
    from transformers import AutoModelForImageTextToText

    with complaints(str(folder / CONFIG)), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def _mapping(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise DyrateError(f"{path}: expected a JSON object, not {json.dumps(values)[:40]}")
    return values


def _mapping_if_there(path: Path) -> None:
    if path.exists():
        _mapping(path)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a nested mapping, by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value


def _product(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _few(names: Collection[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
