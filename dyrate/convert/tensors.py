"""Tensors on their way from one checkpoint to another: read one at a time, each of them accounted for."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import INDEX, WEIGHTS, complaints, few
from dyrate.files import write_json

Shape = tuple[int, ...]
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_PICKLES = ("pytorch_model*.bin", "*.bin", "*.pth", "*.pt")  # the first kind that is there
# Clones, as tensors of a pickle may share their memory, and what a safetensors file holds may not.
_TO_SAFETENSORS = (
    "import sys,torch;from safetensors.torch import save_file;"
    "[save_file({k:v.clone(memory_format=torch.contiguous_format) for k,v in "
    "torch.load(f,weights_only=True,mmap=True).items()},f.rpartition('.')[0]+'.safetensors',"
    "{'format':'pt'}) for f in sys.argv[1:]]"
)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file; only `read` reads it."""

    file: Path
    name: str
    shape: Shape
    dtype: str
    """As safetensors writes it: F16, BF16, F32, or what is no weight."""

    def read(self) -> Tensor:
        """Return the tensor."""
        with complaints(f"{self.file}: {self.name}"), safe_open(self.file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def stored_in(folder: Path) -> dict[str, Stored]:
    """Return all tensors in a folder's safetensors files, by name; nothing but the files' headers is read.

    Raises `DyrateError` for a damaged file, for a name in two of them, and where there are none. Pickled
    files are never opened: `weights_only=True` has twice been no protection (CVE-2025-32434, CVE-2026-24747),
    so that loading one is left to the user, who knows where it comes from and can do it where it does no
    harm.
    """
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with complaints(f"{path}: damaged or cut off"), safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            one_file = {
                name: Stored(path, name, tuple(part.get_shape()), part.get_dtype())
                for name, part in parts.items()
            }
        if twice := found.keys() & one_file.keys():
            other = found[min(twice)].file.name
            raise DyrateError(
                f"{path}: holds {few(twice)}, and so does {other}; one of the files is too many"
            )
        found |= one_file
    if not found:
        _no_weights(folder)
    return found


def _no_weights(folder: Path) -> NoReturn:
    pickles = next((found for kind in _PICKLES if (found := sorted(folder.glob(kind)))), None)
    if pickles is None:
        raise DyrateError(f"{folder}: no *.safetensors in it")
    command = shlex.join(["python", "-c", _TO_SAFETENSORS, *map(str, pickles)])
    raise DyrateError(
        f"{folder}: its weights are pickled ({few({path.name for path in pickles})}), and a pickle can run "
        "any code: it is not opened here. If you trust its source, or in a container without network, make "
        f"safetensors of it, and convert again: {command}"
    )


class Account:
    """The tensors of a checkpoint: each is taken once for what it becomes, or left aside for a reason."""

    def __init__(self, tensors: Mapping[str, Stored], where: Path) -> None:
        self.where = where
        self.left = dict(tensors)
        self.ignored: dict[str, list[str]] = {}
        """Names by the reason for which they are left aside."""
        self._absent: list[str] = []
        self._misshapen: list[str] = []

    def has(self, prefix: str) -> bool:
        """Whether a tensor whose name begins so has not been taken yet."""
        return any(name.startswith(prefix) for name in self.left)

    def take(self, name: str, shape: Sequence[int | None]) -> Stored:
        """Take a tensor of a shape, None for a size that is free; `settle` says what is wrong with it."""
        found = self.left.pop(name, None)
        if found is None:
            self._absent.append(name)
            return Stored(self.where, name, tuple(size or 0 for size in shape), "F32")
        place = found.file.name
        fits = len(found.shape) == len(shape) and all(
            size in (None, own) for size, own in zip(shape, found.shape, strict=True)
        )
        if not fits:
            self._misshapen.append(f"{name} ({list(found.shape)}, expected {list(shape)}) in {place}")
        elif found.dtype not in DTYPES:
            floats = ", ".join(DTYPES)
            self._misshapen.append(f"{name} (stored as {found.dtype}, expected {floats}) in {place}")
        return found

    def lack(self, what: str) -> None:
        """Let `settle` say that something is absent that is no tensor."""
        self._absent.append(what)

    def ignore(self, pattern: str, reason: str) -> None:
        """Leave aside what is still there and whose whole name matches a regular expression."""
        names = sorted(name for name in self.left if re.fullmatch(pattern, name))
        if names:
            self.ignored.setdefault(reason, []).extend(names)
        for name in names:
            del self.left[name]

    def settle(self) -> None:
        """Raise one `DyrateError` for all that was absent, had another shape or type, or is left over."""
        left = [f"{name} in {part.file.name}" for name, part in self.left.items()]
        faults = [
            f"{what} {few(names)}"
            for what, names in (
                ("lacks", self._absent),
                ("has otherwise", self._misshapen),
                ("has, for which there is no place,", left),
            )
            if names
        ]
        if faults:
            raise DyrateError(
                f"{self.where}: {'; '.join(faults)}. Its weights and config.json must be of one model"
            )


@dataclass(frozen=True)
class Output:
    """A tensor of the new checkpoint, and what it is made of."""

    name: str
    parts: tuple[Stored, ...]
    make: Callable[..., Tensor] = lambda tensor: tensor

    def tensor(self, dtype: torch.dtype | None) -> Tensor:
        """Read its parts and make it, in `dtype` or its own; `DyrateError` where a number is not finite."""
        made = self.make(*(part.read() for part in self.parts))
        made = made.to(dtype or made.dtype).contiguous()
        # Extremes are NaN where anything is, and cost a CPU a tenth of `isfinite`.
        if made.numel() and not bool(torch.stack(torch.aminmax(made)).isfinite().all()):
            first = self.parts[0]
            shown = str(made.dtype).removeprefix("torch.")
            raise DyrateError(f"{first.file}: {first.name} has NaN or infinity in it, as {shown}")
        return made


def write_shards(outputs: Iterable[Output], folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint's weights: one file for each that they come from, and never more of it in memory.

    The files are named as transformers names them: `model.safetensors`, or shards and their index.
    """

    def origin(output: Output) -> Path:
        return output.parts[0].file

    files = [list(shard) for _, shard in groupby(sorted(outputs, key=origin), key=origin)]
    weight_map: dict[str, str] = {}
    size = 0
    for number, shard in enumerate(files, 1):
        name = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {output.name: output.tensor(dtype) for output in shard}
        with complaints(str(folder / name)):  # a full disk is no OSError there
            save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
