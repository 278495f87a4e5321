"""Where a model comes from: a folder or a hub id, its content hash, and how it is loaded."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import gpus
from dyrate.clip_folder import FOLDER as TEXT_ENCODER
from dyrate.errors import DyrateError
from dyrate.evaluation.placement import WHOLE, Fit
from dyrate.files import write_text

if TYPE_CHECKING:
    import torch

    from dyrate.evaluation.results import Connector

DTYPES = ("float32", "float16", "bfloat16")
# What a model consists of. No pickled weights, no code.
FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_CACHE_ABOVE = 256 * 2**20


def locate(pretrained: str, revision: str | None = None) -> Path:
    """The checkpoint's folder: `pretrained` itself, or the hub's snapshot, downloaded if it is not there yet.

    `revision` is a commit, today's main where there is none. Raises `DyrateError` where there is neither
    folder nor snapshot, or no safetensors weights, and for a revision of a folder.
    """
    try:
        folder = Path(pretrained).expanduser()
        there = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, or ~user without such a user
        raise DyrateError(f"--model {pretrained}: {error}") from None
    if there and revision is not None:
        raise DyrateError(
            f"--revision {revision}: {pretrained} is a folder; only what is on the hub has revisions"
        )
    if not there:
        folder = _snapshot(pretrained, revision)
    if not any(folder.glob("*.safetensors")) and not (folder / "connector.json").exists():
        raise DyrateError(
            f"--model {pretrained}: no *.safetensors in {folder}; pickled weights are not loaded"
        )
    return folder


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError:
        raise DyrateError(f"--model {name}: no such folder, and not a hub id such as org/name") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DyrateError(f"--model {name}: no such folder, and the hub gave nothing: {reason}") from None


def content_hash(folder: Path) -> str:
    """sha256 over names and bytes of weights, configuration, tokenizer and processor, and of a text encoder.

    Large files are hashed once: their digests are kept in the user's cache folder, where there can be one, by
    what the file system says of the file. Raises `DyrateError` for a file that cannot be read.
    """
    digest = hashlib.sha256()
    patterns = [f"{place}{pattern}" for place in ("", f"{TEXT_ENCODER}/") for pattern in FILES]
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        try:
            digest.update(f"{path.relative_to(folder).as_posix()}\0{cached_hash(path)}\n".encode())
        except OSError as error:
            raise DyrateError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_hash(path: Path) -> str:
    """sha256 of a file; of a large one from the user's cache folder, where it is the same file still."""
    path = path.resolve()
    status = path.stat()
    if status.st_size < _CACHE_ABOVE:
        return file_hash(path)
    # Times of modification can be set, as `cp --preserve` does; those of a change of the inode cannot.
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = hashlib.sha256(f"{path}\0{identity}".encode()).hexdigest()
    digest = None
    with suppress(OSError, RuntimeError, ValueError, DyrateError):  # no cache: no home, no rights, no space
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dyrate" / "sha256"
        digest = _known_hash(cache / key)
        if digest is None:
            digest = file_hash(path)
            write_text(cache / key, _entry(key, digest))
    return digest or file_hash(path)


def _known_hash(entry: Path) -> str | None:
    """The digest in an entry of the cache, None where there is none, or a damaged one."""
    if not entry.exists():
        return None
    text = entry.read_bytes().decode("ascii", errors="replace")
    digest = text[: hashlib.sha256().digest_size * 2]
    return digest if text == _entry(entry.name, digest) else None


def _entry(key: str, digest: str) -> str:
    return f"{digest} {hashlib.sha256(f'{key} {digest}'.encode()).hexdigest()}\n"


def load(
    folder: Path,
    device: "torch.device",
    dtype: str,
    fit: Fit = WHOLE,
    pixels: tuple[int, int] | None = None,
) -> tuple[Any, Any]:
    """Return processor and model of a checkpoint; they are known to fit one image together.

    `pixels`: the least and the most of an image, where the checkpoint's own bounds are not wanted.

    Raises `DyrateError` for a checkpoint that is damaged, incomplete or not supported: see `checkpoint_files`
    and `soundness`.
    """
    from dyrate.connectors.folder import RECORD_FILE
    from dyrate.evaluation.processor import bound_images

    made = _joined if (folder / RECORD_FILE).exists() else _stock
    processor, model = made(folder, device, dtype, fit)
    if pixels is not None:
        bound_images(processor, pixels, folder)
    return processor, model


def _stock(
    folder: Path, device: "torch.device", dtype: str, fit: Fit, replaced: str | None = None
) -> tuple[Any, Any]:
    from dyrate.evaluation.processor import load_processor
    from dyrate.evaluation.soundness import check_vision

    processor = load_processor(folder)
    model = load_model(folder, device, dtype, replaced, fit)
    check_vision(folder, processor, model)
    return processor, model


def connector_of(folder: Path) -> "Connector | None":
    """What results say of a trained connector's folder; None for another checkpoint."""
    from dyrate.connectors.folder import RECORD_FILE, read_record

    if not (folder / RECORD_FILE).exists():
        return None
    record = read_record(folder)
    return {
        "name": record.connector,
        "fields": record.fields,
        "base": record.base,
        "sha256": record.sha256,
    }


def base_of(folder: Path) -> Path:
    """The checkpoint around a trained connector, whose vision tower and text encoder are in use; of another
    folder itself.
    """
    from dyrate.connectors.folder import read_record

    return folder if connector_of(folder) is None else folder / read_record(folder).model


def _joined(folder: Path, device: "torch.device", dtype: str, fit: Fit) -> tuple[Any, Any]:
    """Processor and model of a trained connector's folder: its checkpoint, joined by it."""
    from dyrate.connectors.folder import RECORD_FILE, load_connector, read_record
    from dyrate.connectors.join import join

    record, path = read_record(folder), folder / RECORD_FILE
    base = folder / record.model
    if not (base / "config.json").is_file():
        raise DyrateError(
            f"{path}: model: there is no checkpoint in {base}, on which the connector was trained"
        )
    if (found := content_hash(base)) != record.base:
        raise DyrateError(
            f"{path}: base: the connector was trained on weights of the hash {record.base}, and those in "
            f"{base} "
            f"have {found}"
        )
    trained = load_connector(folder)
    if fit != WHOLE:
        raise DyrateError(
            f"--model {folder}: a trained connector joins a model that is whole on one device: leave out "
            + " and ".join(f"--{name.replace('_', '-')}" for name in fit.told)
        )
    processor, model = _stock(base, device, dtype, fit, replaced="multi_modal_projector")
    try:
        trained.merge_into(model.model.language_model)
        join(processor, model, trained.connector, trained.words)
    except DyrateError as error:
        raise DyrateError(f"{path}: {error}") from None
    return processor, model


def load_model(
    folder: Path, device: "torch.device", dtype: str, replaced: str | None = None, fit: Fit = WHOLE
) -> Any:
    """The model in evaluation mode, from safetensors, on `device` in `dtype`, or as `fit` says.

    Raises `DyrateError` unless the checkpoint's weights are all there, all of this model, and all finite.
    Those of the part `replaced` may be absent, all or some: something else will take its place.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from dyrate.evaluation.checkpoint_files import check_config, check_weight_files, complaints, quietly
    from dyrate.evaluation.soundness import check_finite, check_keys, check_placed

    if dtype not in DTYPES:
        raise DyrateError(f"--dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
    quantization = fit.quantization(device, getattr(torch, dtype))
    config = check_config(folder)
    check_weight_files(folder, config)
    placed = None if device.type == "cpu" else fit.device_map or {"": device}
    with complaints(f"--model {folder}"), quietly():
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            device_map=placed,
            quantization_config=quantization,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    check_keys(folder, loaded, replaced)
    check_placed(folder, model, device)
    check_finite(folder, model)
    return model.eval()


def choose_device(name: str, fit: Fit = WHOLE) -> "torch.device":
    """`auto` is a GPU where there is one, else the CPU; a missing device is a `DyrateError`.

    A GPU without a number is that of LOCAL_RANK, or else one that no other process has taken so. A model over
    several takes all that are visible, and the first of them has its inputs.
    """
    import torch

    origin = f"--device {name!r}"
    if fit.device_map is not None and name not in ("auto", "cuda", "cpu"):
        raise DyrateError(
            f"{origin} is one device, and --device-map {fit.device_map} takes all that are visible: leave "
            "out one of the two; CUDA_VISIBLE_DEVICES says which are visible"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available() and fit.device_map is not None:
        gpus.take_all(gpus.visible())
        name = "cuda:0"
    if name == "cuda" and torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")
        origin += "" if rank is None else f" with LOCAL_RANK={rank}"
        name = f"cuda:{gpus.take(gpus.visible()) if rank is None else rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DyrateError(f"{origin} is no device; try auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DyrateError(f"{origin}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cpu" and device.index:
        raise DyrateError(f"{origin}: there is one CPU device, cpu; --threads says how much of it")
    try:
        torch.ones(1, device=device).item()  # a meta tensor has no item
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DyrateError(f"{origin}: not usable here ({reason}); try auto, cpu or cuda") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what is not told where to run, kernels say, runs there
    return device
