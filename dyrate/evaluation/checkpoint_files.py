"""A checkpoint's files, looked at before anything is made of them.

transformers loads much that is no whole checkpoint: a broken `generation_config.json` counts as none, a shard
may lie outside the folder, and the sizes in `config.json` are allocated before they are compared with the
weights.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.files import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_MAPPINGS = (
    *_PROCESSORS,
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What only makes sense above 0; many models would run with less, and say nothing.
_POSITIVE = re.compile(
    r"(hidden|intermediate|vocab|image|patch)_size|num_(hidden_layers|attention_heads|key_value_heads)"
    r"|num_channels|head_dim|max_position_embeddings|(rms|layer)_norm_eps|rope_theta|factor"
)
_LONGEST = 300
_NAMED = 3


@contextmanager
def complaints(where: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a library says against a file into a `DyrateError` of one line, beginning with `where`.

    Meant for one call of a library: a mistake of ours in the block would look like one of the file. Errors of
    the types in `but` are let through.
    """
    through: tuple[type[Exception], ...] = (DyrateError, MemoryError, *but)
    try:
        yield
    except through:
        raise
    except Exception as error:
        because = f"; because of {_in_a_line(error.__cause__)}" if error.__cause__ else ""
        raise DyrateError(f"{where}: {_in_a_line(error)}{because}") from error


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}"


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' warnings, such as its table of keys that do not fit: they become one line."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_config(folder: Path) -> Any:
    """Return the checkpoint's configuration.

    Raises `DyrateError` where `config.json` is absent or damaged, describes no vision-language model, or has
    a number that no model can have; where the weights are an adapter's; and where they are quantized.
    """
    from transformers import AutoConfig, PreTrainedConfig

    path = folder / CONFIG
    values = _mapping(path)
    for file in (path, folder / "generation_config.json"):
        for key, value in _mapping(file).items() if file.exists() else ():
            if key.endswith("_token_id") and not _is_token(value):
                raise DyrateError(f"{file}: {key} is {value!r}, expected a number, or a list of numbers")
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
    parts = [getattr(config, name, None) for name in ("text_config", "vision_config")]
    if not all(isinstance(part, PreTrainedConfig) for part in parts):
        raise DyrateError(
            f"{path}: model_type {config.model_type!r} is no vision-language model: it has not both "
            "text_config and vision_config"
        )
    return config


def check_weight_files(folder: Path, config: Any) -> None:
    """Raise `DyrateError` where files of weights are absent, damaged, no floats, or too few for `config`."""
    weights: dict[str, list[int]] = {}
    for path in _weight_files(folder):
        with (
            complaints(f"--model {folder}: its weights are damaged or cut off: {path.name}"),
            safe_open(path, framework="pt") as file,
        ):
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            shapes = {name: (value.get_shape(), value.get_dtype()) for name, value in found.items()}
        for name, (shape, dtype) in shapes.items():
            if "F" not in dtype and name.endswith((".weight", ".bias")):
                raise DyrateError(f"{path}: {name} is stored as {dtype}; expected floating-point weights")
            weights[name] = shape
    stored = sum(map(prod, weights.values()))
    for part in ("text_config", "vision_config"):
        layers = getattr(getattr(config, part), "num_hidden_layers", 0)
        if layers > len(weights):
            raise DyrateError(
                f"{folder / CONFIG}: {part}.num_hidden_layers is {layers}, but there are only {len(weights)} "
                "tensors in the weights"
            )
    if (described := _parameters(folder, config)) > 2 * stored:
        raise DyrateError(
            f"{folder / CONFIG}: describes a model of {described:,} parameters, but the weights hold only "
            f"{stored:,} numbers"
        )


def check_processor_files(folder: Path) -> None:
    """Raise `DyrateError` for a file of the processor or tokenizer that is not what its name says."""
    for names in (_PROCESSORS, _TOKENIZERS):
        if not any((folder / name).exists() for name in names):
            raise DyrateError(f"--model {folder}: none of {', '.join(names)} is there; one must be")
    for name in _MAPPINGS:
        if (folder / name).exists():
            _mapping(folder / name)
    for path in folder.glob("*.jinja"):
        with complaints(str(path)):
            path.read_text("utf-8")


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
        raise DyrateError(f"{folder / INDEX}: names {few(absent)}, not in the folder; download it again")
    return [folder / name for name in sorted(names)]


def _parameters(folder: Path, config: Any) -> int:
    """How many numbers the model has that `config` describes; none of them is made.

    Raises `DyrateError` for a model that no family adapter knows.
    """
    from transformers import AutoModelForImageTextToText

    with complaints(str(folder / CONFIG)), quietly(), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    family_of(model)
    return sum(parameter.numel() for parameter in model.parameters())


def _mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object strictly; a number that is not finite is named by its key."""
    try:
        values = read_json(path)
    except DyrateError as error:
        for key, value in _numbers(_read_leniently(path)):
            if not isfinite(value):
                raise DyrateError(f"{path}: {key} is {value}, expected a finite number") from error
        raise
    if not isinstance(values, dict):
        raise DyrateError(f"{path}: expected a JSON object, not {json.dumps(values)[:40]}")
    return values


def _read_leniently(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers in a JSON value, by their dotted keys."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in inner:
            yield from _numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, int | float):
        yield key, value


def _is_token(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return value is None or all(type(token) is int for token in values)


def few(names: Collection[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
