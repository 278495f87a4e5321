"""One file from which a training run continues: weights, optimiser tensors, and its progress as JSON."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.optim import Optimizer

from dyrate import files
from dyrate.errors import DyrateError

_KEY = "progress"
FILE_NAME = "checkpoint.safetensors"


def save(directory: Path, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write the run's state; a crash while writing leaves the previous checkpoint whole."""
    # Clones, as tied weights have two names and would share memory.
    weights = model.state_dict().items()
    tensors = {
        f"model/{name}": value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in weights
    }
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value.detach().contiguous()
    saved = json.dumps(progress, sort_keys=True)
    hashed = _hash(saved, tensors)
    content = serialise(tensors, metadata={_KEY: saved, "sha256": hashed})
    with files.replacing(directory / FILE_NAME) as temporary:
        temporary.write_bytes(content)


def load(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return (progress, tensors) of the checkpoint in a directory, or None where there is none.

    Raises:
        DyrateError: if the file there is damaged, after which it is out of the way, or is not a checkpoint of
            this module.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        _set_aside(path, str(error))
    if _KEY not in metadata:
        raise DyrateError(f"{path} holds no training progress; remove it to start anew, or write elsewhere")
    if metadata.get("sha256") != _hash(metadata[_KEY], tensors):
        _set_aside(path, "its content is not what was written")
    progress: dict[str, Any] = json.loads(metadata[_KEY])
    return progress, tensors


def _hash(progress: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _set_aside(path: Path, why: str) -> NoReturn:
    aside = path.with_name(f"{path.name}.damaged")
    with files.writable(path):
        path.replace(aside)
    raise DyrateError(
        f"{path} is damaged ({why}): it was set aside as {aside.name} (remove it when it is of no more use), "
        "and the same command, given again, starts anew"
    )


def restore(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put a checkpoint's tensors back into a model and its optimiser."""
    weights = {
        name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")
    }
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            # The fused optimiser keeps its step counters on the device, the plain one on the CPU.
            fused = bool(optimizer.defaults.get("fused"))
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if fused or key != "step" else value
                for key, value in state.items()
            }
