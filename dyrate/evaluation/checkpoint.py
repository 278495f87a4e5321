"""Where a model comes from: a folder or a hub id, its content hash, and how it is loaded."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate.errors import DyrateError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
# What a model consists of. No pickled weights, no code.
_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_CACHE_ABOVE = 256 * 2**20


def locate(pretrained: str, revision: str = "main") -> Path:
    """The checkpoint's folder: `pretrained` itself, or the hub's snapshot, downloaded if it is not there yet.

    Raises `DyrateError` where there is neither, or no safetensors weights.
    """
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        folder = _snapshot(pretrained, revision)
    if not any(folder.glob("*.safetensors")):
        raise DyrateError(
            f"--model {pretrained}: no *.safetensors in {folder}; pickled weights are not loaded"
        )
    return folder


def _snapshot(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
    except HFValidationError:
        raise DyrateError(f"--model {name}: no such folder, and not a hub id such as org/name") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DyrateError(f"--model {name}: no such folder, and the hub gave nothing: {reason}") from None


def content_hash(folder: Path) -> str:
    """sha256 over names and bytes of weights, configuration, tokenizer and processor.

    Large files are hashed once: their digests are kept in the user's cache folder, by path, size and time.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{_file_hash(path)}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_hash(path: Path) -> str:
    path = path.resolve()
    status = path.stat()
    if status.st_size < _CACHE_ABOVE:
        return file_hash(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dyrate" / "sha256"
    key = hashlib.sha256(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    known = cache / key
    if known.exists():
        return known.read_text("ascii")
    digest = file_hash(path)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = known.with_name(f"{key}.{os.getpid()}")
    temporary.write_text(digest, "ascii")
    temporary.replace(known)
    return digest


def load_processor(folder: Path) -> Any:
    """The checkpoint's processor: PIL pixels on every machine, padding on the left for batched generation."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def load_model(folder: Path, device: "torch.device", dtype: str) -> Any:
    """The model in evaluation mode, from safetensors, on `device` in `dtype`."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    if dtype not in DTYPES:
        raise DyrateError(f"--dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            device_map={"": device} if device.type != "cpu" else None,
        )
    except SafetensorError as error:
        raise DyrateError(f"--model {folder}: its weights are damaged or cut off: {error}") from None
    return model.eval()


def choose_device(name: str) -> "torch.device":
    """`auto` is this process's GPU where there is one, else the CPU; a missing device is a `DyrateError`."""
    import torch

    if name == "auto":
        rank = os.environ.get("LOCAL_RANK", "0")
        return torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DyrateError(f"--device {name!r} is no device; try auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DyrateError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device
