"""VTW's search for the layer from which visual tokens can be withdrawn, and the questions it runs on."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.methods.none import NoReduction
from dyrate.methods.vtw import VTW


@dataclass(frozen=True)
class LayerSearch:
    """The outcome: the mean divergence per layer, and the first layer at or below the threshold."""

    eta: float
    samples: int
    divergence: Mapping[int, float]

    @property
    def layer(self) -> int | None:
        """The first layer whose divergence is at most eta, None if there is none."""
        return next((layer for layer, value in sorted(self.divergence.items()) if value <= self.eta), None)

    def to_json(self) -> str:
        """Return the outcome as JSON text, layers in order."""
        document = {
            "schema": "dyrate.vtw_search",
            "version": 1,
            "eta": self.eta,
            "samples": self.samples,
            "layer": self.layer,
            "divergence": {str(layer): value for layer, value in sorted(self.divergence.items())},
        }
        return json.dumps(document, indent=2) + "\n"


def divergence(full: Tensor, dropped: Tensor) -> Tensor:
    """KL(dropped || full) of logits [batch, vocabulary], mean over the batch.

    The official code's KLDivLoss(batchmean)(log_softmax(full), softmax(dropped)); the paper's text
    (arXiv:2405.05803, section 3.3) does not say which way round.
    """
    return kl_div(full.float().log_softmax(-1), dropped.float().softmax(-1), reduction="batchmean")


@torch.no_grad()
def search_layer(
    model: nn.Module,
    inputs: Iterable[Mapping[str, Tensor]],
    *,
    eta: float,
    first_layer: int = 5,
) -> LayerSearch:
    """Compare last-token logits with and without visual tokens from each layer on, mean over `inputs`.

    Layers from `first_layer` on are tried; the official code starts at 5. `inputs` are one prompt each,
    as the processor makes them, on the model's device. Raises `DyrateError` if there are none, or if the
    model is no deeper than `first_layer`.
    """
    num_layers = len(family_of(model).layers)
    if not 1 <= first_layer < num_layers:
        raise DyrateError(f"first layer {first_layer}: expected 1..{num_layers - 1}, the model's layers")
    totals = torch.zeros(num_layers, dtype=torch.float64)
    samples = 0
    for prompt in inputs:
        with NoReduction()(model):
            full = model(**prompt, logits_to_keep=1).logits[:, -1]
        for layer in range(first_layer, num_layers):
            with VTW(layer=layer)(model):
                dropped = model(**prompt, logits_to_keep=1).logits[:, -1]
            totals[layer] += divergence(full, dropped).item()
        samples += 1
    if not samples:
        raise DyrateError("the layer search needs at least one question with an image")
    means = (totals / samples).tolist()
    return LayerSearch(eta, samples, {layer: means[layer] for layer in range(first_layer, num_layers)})


def questions_from(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield (PIL image, question) of a JSON-lines or parquet file with the fields `image` and `question`.

    In JSON lines `image` is a path, relative to the file; in parquet it is a Hugging Face Image.
    """
    if path.suffix == ".parquet":
        yield from _from_parquet(path)
    elif path.suffix in (".jsonl", ".json"):
        yield from _from_json_lines(path)
    else:
        raise DyrateError(f"--data {path}: expected a .jsonl or .parquet file")


def _from_json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        lines = _read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DyrateError(f"--data {path}: expected UTF-8 text ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"--data {path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DyrateError(f"{where}: {line!r:.80} is not JSON ({error})") from None
        match entry:
            case {"image": str() as image, "question": str() as question}:
                yield _decoded(_read(path.parent / image), where), question
            case _:
                raise DyrateError(f'{where}: {line!r:.80}; expected {{"image": path, "question": text}}')


def _from_parquet(path: Path) -> Iterator[tuple[Any, str]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(_read(path)))
    except pa.ArrowInvalid as error:
        raise DyrateError(f"--data {path}: not a parquet file ({error})") from None
    columns = set(file.schema_arrow.names)
    if missing := {"image", "question"} - columns:
        raise DyrateError(
            f"--data {path}: no column {', '.join(sorted(missing))}; it has {', '.join(sorted(columns))}"
        )
    batches = file.iter_batches(batch_size=16, columns=["image", "question"])
    entries = (entry for batch in batches for entry in batch.to_pylist())
    for row, entry in enumerate(entries):
        where = f"--data {path}, row {row}"
        match entry:
            case {"image": {"bytes": bytes() as data}, "question": str() as question} if data:
                yield _decoded(data, where), question
            case {"image": {"path": str() as image}, "question": str() as question}:
                yield _decoded(_read(path.parent / image), where), question
            case _:
                raise DyrateError(
                    f"{where}: {entry!r:.80}; expected a text `question` and a Hugging Face Image, "
                    "a struct of `bytes` and `path`, as `image`"
                )


def _decoded(data: bytes, where: str) -> Any:
    """Return the PIL image in `data`, in RGB; `where` it came from goes into the error."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval, once imported, has Pillow fill up broken images
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except UnidentifiedImageError:
        raise DyrateError(f"{where}: the {len(data)} bytes of the image are of no known format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DyrateError(f"{where}: the image cannot be decoded ({error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DyrateError(f"--data: cannot read {path}: {error.strerror}") from None
