"""What lmms-eval asks of a model: the questions, and what their tasks want of generation."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS

_DEFAULT_NEW_TOKENS = 1024  # llava_hf's, for tasks that set none
_HUB_NEW_TOKENS = {one.hub_task: one.hub_new_tokens for one in BENCHMARKS.values() if one.hub_new_tokens}
# Not applied, as in llava_hf: answers are not cut, and the checkpoint's processor shapes the images.
_UNUSED = ("until", "image_aspect_ratio")
# What asks for nothing: most tasks write out that they leave the choice to greedy search.
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (None, False),
    "num_beams": (None, 1),
    "temperature": (None, 0),
    "top_p": (None, 0, 1),
    "top_k": (None, 0, 1),
    "repetition_penalty": (None, 1),
}


@dataclass(frozen=True)
class Request:
    """One request as lmms-eval asks it."""

    context: str
    arguments: str  # generation arguments as JSON, so that equal ones group
    doc_to_visual: Callable[[Any], Any]
    doc_id: int
    task: str
    split: str

    @classmethod
    def of(cls, arguments: tuple[Any, ...]) -> "Request":
        """Name the arguments of an lmms-eval instance; a `DyrateError` if what it asks is no text."""
        context, generation, doc_to_visual, doc_id, task, split = arguments
        found = cls(context, json.dumps(generation, sort_keys=True), doc_to_visual, doc_id, task, split)
        if not isinstance(context, str) or any("\ud800" <= character <= "\udfff" for character in context):
            raise DyrateError(f"{found}: {context!r:.80} is asked; it should be a text that UTF-8 can hold")
        return found

    def __str__(self) -> str:
        return f"task {self.task}, row {self.doc_id}"


@dataclass(frozen=True)
class Question:
    """One request as the model gets it."""

    prompt: str
    images: Sequence[Image.Image]
    content: str
    """Hash of prompt and images: part of the key that finds an answer in a log; seeds sampling."""
    doc_id: int
    task: str


def new_tokens(request: Request, decoding: Mapping[str, Any]) -> int:
    """Return how many tokens a request's task wants at most.

    Raises `DyrateError` where its generation arguments contradict the decoding strategy, or are not known.
    """
    asked = json.loads(request.arguments)
    source = f"task {request.task}: generation_kwargs (or --gen_kwargs)"
    for key, value in asked.items():
        if key == "max_new_tokens" or key in _UNUSED:
            continue
        if key not in _IDLE:
            known = ", ".join(["max_new_tokens", *_IDLE, *_UNUSED])
            raise DyrateError(
                f"{source} hold {key}={value!r:.60}, which the dyrate model does not know; known: {known}"
            )
        if value not in _IDLE[key] and value != decoding.get(key):
            raise DyrateError(
                f"{source} ask for {key}={value!r:.60}, but the decoding strategy, {decoding['name']}, "
                f"says how to generate: choose another one (greedy, beam-5, top_p) or leave the argument out"
            )
    limit = asked.get("max_new_tokens", _HUB_NEW_TOKENS.get(request.task, _DEFAULT_NEW_TOKENS))
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DyrateError(
            f"{source} ask for max_new_tokens={limit!r:.60}; it should be a whole number from 1 on"
        )
    return limit


def batches(asked: Sequence[Request], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices of the requests by batch: each of one task and one set of arguments, longest text first."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, one in enumerate(asked):
        groups.setdefault((one.task, one.split, one.arguments), []).append(index)
    found = []
    for group in groups.values():
        group.sort(key=lambda index: (-lengths[index], index))
        found += [group[i : i + size] for i in range(0, len(group), size)]
    return found


def images_of(request: Request, split: Any) -> Sequence[Image.Image]:
    """Return the images of a request, whose row is in `split`, as lmms-eval's task makes them; see
    `images_in`.
    """
    return images_in(lambda: split[request.doc_id], request.doc_to_visual, str(request))


def images_in(
    read: Callable[[], Mapping[str, Any]], doc_to_visual: Callable[[Any], Any], where: str
) -> Sequence[Image.Image]:
    """Return what a task's `doc_to_visual` makes of a row, which is decoded as it is read.

    Raises `DyrateError` for one that is damaged, of impossible size, of more than 8 bits, or no image.
    """
    try:
        row = read()
        _check_depth(where, row)
        images = doc_to_visual(row) or []
        for image in images:
            if isinstance(image, Image.Image):
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's
        raise DyrateError(f"{where}: the image cannot be decoded ({error})") from error
    if wrong := [type(image).__name__ for image in images if not isinstance(image, Image.Image)]:
        raise DyrateError(f"{where}: the dyrate model reads images, not {wrong[0]}")
    if empty := [image.size for image in images if 0 in image.size]:
        raise DyrateError(f"{where}: the image has no pixels ({empty[0][0]} x {empty[0][1]})")
    return images


def _check_depth(where: str, row: Mapping[str, Any]) -> None:
    """Refuse what Pillow makes white when it turns it into RGB: all above 255 is cut off."""
    for name, value in row.items():
        if isinstance(value, Image.Image) and value.mode.startswith(("I", "F")):
            raise DyrateError(
                f"{where}, column {name!r}: an image of mode {value.mode} has more than 8 bits per color, "
                "which RGB would cut off; convert it"
            )


def colors(image: Image.Image) -> bytes:
    """The pixels' bytes; a palette image's own are indices, which say nothing without the palette."""
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).tobytes()
