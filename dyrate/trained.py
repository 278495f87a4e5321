"""Weights that were trained here: one safetensors file beside a JSON record that holds its hash."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dyrate import files
from dyrate.errors import DyrateError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write tensors, atomically; return the file's SHA-256."""
    weights = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    with files.replacing(path) as temporary:
        temporary.write_bytes(weights)
    return files.digest(weights)


def load_tensors(
    path: Path, record: Path, hashed: Any, wanted: Mapping[str, Tensor], cure: str
) -> dict[str, Tensor]:
    """Return the tensors of a file, which must be those of its record and of the names, types and shapes
    `wanted`.

    Raises `DyrateError` for a missing, damaged or unfit file, and for what is not finite; `cure` is what
    helps then.
    """
    if not path.exists():
        raise DyrateError(f"{path} is missing beside {record.name}")
    try:
        tensors = load(weights := files.read_bytes(path))
    except SafetensorError as error:
        raise DyrateError(f"{path} does not fit {record.name}: {error}; {cure}") from None
    if different := sorted(wanted.keys() ^ tensors.keys()):
        fault = "is missing" if different[0] in wanted else "should not be there"
        raise DyrateError(f"{path} does not fit {record.name}: the tensor {different[0]} {fault}")
    for name, tensor in tensors.items():
        there, should = (f"{one.dtype} {tuple(one.shape)}" for one in (tensor, wanted[name]))
        if there != should:
            raise DyrateError(f"{path} does not fit {record.name}: {name} is {there}, should be {should}")
        if not tensor.isfinite().all():
            raise DyrateError(f"{path}: {name} has numbers that are not finite; {cure}")
    if (found := files.digest(weights)) != hashed:
        raise DyrateError(
            f"{record}: sha256: is {hashed!r}, but {path.name} beside it has {found}: if the two belong "
            "together, "
            f"put that there; else {cure}"
        )
    return tensors
