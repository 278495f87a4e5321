"""From a checkpoint in the original LLaVA layout to a folder in transformers' own, or to a connector's."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from dyrate import files
from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.folder import TrainedConnector, save_connector, save_variant
from dyrate.convert.compressors import as_projector, connector_of, take_connector
from dyrate.convert.embeddings import padded
from dyrate.convert.original import OriginalConfig, System, language_model, read_config, text_config
from dyrate.convert.processor import BERT, processor_of, question_tokenizer, tokenizer_of
from dyrate.convert.tensors import DTYPES, Account, Output, stored_in, write_shards
from dyrate.convert.towers import Tower, take_tower
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import content_hash
from dyrate.evaluation.checkpoint_files import CONFIG, complaints, few, quietly
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.provenance import versions

RECORD, BASE = "conversion.json", "base"
_STRATEGIES = {"patch": "default", "cls_patch": "full"}


def convert(
    source: str,
    output: Path,
    tower: str | None = None,
    system: System | None = None,
    questions: str | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint, and return what `conversion.json` says of it.

    Args:
        source: folder of the checkpoint, or a hub id that is in the local cache.
        output: the folder to make; it appears when all of it is there.
        tower: folder, or hub id in the local cache, of the CLIP vision tower; by default what `config.json`
            names. Where the checkpoint holds a tower itself, only sizes and pixels are taken from this one.
        system: what the checkpoint is; by default what its `config.json` says.
        questions: folder, or hub id in the local cache, of the tokenizer that LLaMA-VID reads questions by;
            by default BERT's own id.

    Raises:
        DyrateError: for a checkpoint of no known system, pickled weights, tensors that are absent, left over,
            of another shape or not finite, and an output that holds something. Nothing is left behind then.
    """
    folder = located(source)
    if folder is None:
        raise DyrateError(f"{source}: neither a folder nor in the hub's local cache (`hf download {source}`)")
    values = files.read_json(folder / CONFIG)
    config = read_config(values, folder / CONFIG)
    system = system or config.system()
    account = Account(stored_in(folder), folder)
    with complaints(str(folder / CONFIG)):
        text = text_config(values)
    wanted = tower or config.mm_vision_tower
    place = located(wanted)
    if tower is not None and place is None:
        raise DyrateError(f"--vision-tower {tower}: neither a folder nor in the hub's local cache")
    seeing = take_tower(account, config, place, wanted)
    vision = seeing.config
    sizes = Sizes(vision.hidden_size, text.hidden_size, vision.image_size // vision.patch_size)
    language = list(language_model(account, text, padded(text.vocab_size)))
    connector = connector_of(account, config, system, sizes)
    parts = list(take_connector(account, connector, system))
    account.settle()
    # With a projector a base would answer without its connector, and wrongly. M3's is a LLaVA by itself.
    projection = list(as_projector(parts)) if system in ("llava", "m3") else []
    dtype = _dtype([*language, *projection], folder)
    words = None
    if connector.reads_questions:
        name = questions or BERT
        words = question_tokenizer(located(name), name, connector)
    with _appearing(output) as temporary:
        base = temporary if system == "llava" else temporary / BASE
        with quietly():
            tokenizer = tokenizer_of(folder, text.vocab_size)
            strategy, pad = _STRATEGIES[config.mm_vision_select_feature], config.image_aspect_ratio == "pad"
            processor = processor_of(tokenizer, vision, strategy, pad, seeing.pixels)
            processor.save_pretrained(base)
            _save_config(config, text, seeing, strategy, dtype, base)
        load_processor(base)  # it fits the configuration, or says what does not
        write_shards([*language, *seeing.outputs, *projection], base, DTYPES[dtype])
        if system != "llava":
            _save_connector(connector, parts, words, temporary, {"system": system, "source": source})
        record = {
            "from": "llava-original",
            "system": system,
            "source": source,
            "config_sha256": files.digest(files.read_bytes(folder / CONFIG)),
            "vision_tower": seeing.origin,
            "images": "padded to a square" if pad else "cropped to a square",
            "dtype": str(DTYPES[dtype]).removeprefix("torch."),
            "ignored": account.ignored,
            "versions": versions(),
        }
        files.write_json(temporary / RECORD, record)
    return record


def _save_connector(
    connector: Connector, parts: list[Output], words: Tokenizer | None, folder: Path, origin: dict[str, Any]
) -> None:
    """Make a connector's folder, of the LLaVA that is in it already; and one in it for each further scale."""
    tensors = {part.name: part.tensor(None) for part in parts}
    connector.load_state_dict(tensors, assign=True)
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()})
    base = folder / BASE
    save_connector(
        TrainedConnector(connector, {}, 1.0, words), folder, base, content_hash(base), origin, dtype
    )
    for kernel in getattr(connector, "kernels", ()):
        if kernel > 1:
            tokens = (connector.sizes.side // kernel) ** 2
            save_variant(folder / str(tokens), folder, {"kernel": kernel})


def located(name: str) -> Path | None:
    """Return a folder, or the hub's snapshot of that id in the local cache; None where there is neither."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _dtype(outputs: list[Output], folder: Path) -> str:
    """The one dtype of the language model and the projector, which the vision tower takes over."""
    names: dict[str, list[str]] = {}
    for output in outputs:
        names.setdefault(output.parts[0].dtype, []).append(output.parts[0].name)
    if len(names) > 1:
        told = "; ".join(f"{dtype}: {few(found)}" for dtype, found in sorted(names.items()))
        raise DyrateError(f"{folder}: its tensors are of several dtypes, expected one: {told}")
    return next(iter(names))


def _save_config(
    config: OriginalConfig, text: Any, seeing: Tower, strategy: str, dtype: str, folder: Path
) -> None:
    from transformers import GenerationConfig, LlavaConfig

    image, pad = text.vocab_size, text.vocab_size + 1
    vision = seeing.config
    text.vocab_size, text.pad_token_id = padded(text.vocab_size), pad
    whole = LlavaConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_index=image,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + (strategy == "full"),
        vision_feature_layer=seeing.layer,
        vision_feature_select_strategy=strategy,
        pad_token_id=pad,
        architectures=["LlavaForConditionalGeneration"],
        dtype=str(DTYPES[dtype]).removeprefix("torch."),
    )
    whole.save_pretrained(folder)
    tokens = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id, "pad_token_id": pad}
    GenerationConfig(**tokens).save_pretrained(folder)


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `output` that becomes it if the block ends well, or goes away.

    Raises `DyrateError` where `output` is a file, or a folder with something in it, and where another process
    is making it. What a killed one left is begun again.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DyrateError(f"{output}: is there already, and not empty; nothing is overwritten")
    temporary = output.absolute().with_name(f".{output.absolute().name}.converting")
    with files.writable(output):
        temporary.mkdir(parents=True, exist_ok=True)
        with files.only_one(temporary, "converting a checkpoint"):
            try:
                for left in temporary.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield temporary
                temporary.replace(output)
            except BaseException:
                shutil.rmtree(temporary)
                raise
