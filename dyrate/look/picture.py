"""The image that a look shows, and where its visual tokens are in it."""

import base64
import io
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dyrate.families import Family
from dyrate.look.record import Picture

_LARGEST = 672
"""Side of a photo, in pixels, that is shown as it is."""


def pictured(
    family: Family, inputs: Mapping[str, Tensor], images: Sequence[Image.Image], tokens: int, processor: Any
) -> Picture:
    """Return the first image of a prompt, and where its visual tokens are in it.

    `inputs` are what the processor made of one prompt and its `images`, `tokens` all its visual tokens. What
    a tower of patches sees is shown as it sees it, other images as they came.
    """
    if not family.patchwise:
        return _in_places(family, inputs, images, tokens)
    pixels, tower = inputs["pixel_values"], family.tower
    rows, columns = tower.grid(pixels)
    found: Picture = {
        "webp": _webp(_seen(pixels[0], processor)),
        "rows": rows,
        "columns": columns,
        "places": None,
    }
    if tower.connector is not None:
        found["note"] = (
            f"The connector {tower.connector.name} makes {tokens} visual tokens of the image, and none of "
            "them is a patch of it: which of them live can be counted, not drawn."
        )
    else:
        found["places"] = tower.positions((rows, columns), tokens).tolist()
    return found


def _in_places(
    family: Family, inputs: Mapping[str, Tensor], images: Sequence[Image.Image], tokens: int
) -> Picture:
    """Of tiles and merged patches, by where the family says that tokens stand."""
    photo = images[0].convert("RGB")
    photo.thumbnail((_LARGEST, _LARGEST))
    found: Picture = {"webp": _webp(photo), "rows": 1, "columns": 1, "places": None}
    if len(images) > 1:
        found["note"] = (
            f"The first of {len(images)} images, whose {tokens} visual tokens are counted, not drawn."
        )
        return found
    encode = family.encoder_owner.get_image_features
    given = {name: value for name, value in inputs.items() if name in signature(encode).parameters}
    with torch.no_grad():
        features = family.features(encode(**given))
    places = family.shown(family.places(given, features))
    rows, columns = (places.amax(dim=0) + 1).tolist()
    found |= {"rows": rows, "columns": columns, "places": places.tolist()}
    drawn = int((places[:, 0] >= 0).sum())
    if drawn < tokens:
        found["note"] = (
            f"Of {tokens} visual tokens {drawn} are drawn, {rows} rows of {columns}. The others are counted: "
            "they show the same image again, or end a row."
        )
    return found


def _seen(pixels: Tensor, processor: Any) -> Image.Image:
    """An image as the model reads it, FloatTensor [3, height, width]."""
    mean, deviation = (
        torch.tensor(getattr(processor, name)).view(-1, 1, 1) for name in ("image_mean", "image_std")
    )
    shown = pixels.float().cpu()
    if processor.do_normalize:
        shown = shown * deviation + mean
    return Image.fromarray((shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _webp(image: Image.Image) -> str:
    """The image as WebP in base64."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=90, method=4)
    return base64.b64encode(stream.getvalue()).decode()
