"""What a look at an image holds: answers word by word, and the visual tokens behind each word. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from dyrate import typed
from dyrate.errors import DyrateError
from dyrate.evaluation.results import CLOSED, Hashes
from dyrate.files import write_json
from dyrate.typed import Natural, NotEmpty, Positive, Text

SCHEMA: Final = "dyrate.survival"
VERSION: Final = 1
CLASSES = {"sys": "system", "img": "image", "ins": "instruction", "res": "response"}

Share = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]


class LookError(DyrateError):
    """A record of survival that is not one: a line per problem, each naming file and key."""


@with_config(CLOSED)
class Mass(TypedDict):
    """Where the attention of a step's newest token went: shares that sum to 1, mean over heads and layers."""

    sys: Share
    img: Share
    ins: Share
    res: Share


@with_config(CLOSED)
class Step(TypedDict):
    """One step of generation, which makes one token."""

    word: str  # what the token adds to the answer: a word, a part of one, or nothing where it ends it
    mass: Mass
    rate: Share  # share of the visual tokens that the last layer did not attend to
    sets: Annotated[list[Natural], NotEmpty]  # of each layer, which of the answer's `sets` it attended to


@with_config(CLOSED)
class Answer(TypedDict):
    """What the model answered under one method, and what its attention saw meanwhile."""

    method: dict[str, Any]
    label: Text
    text: str
    steps: Annotated[list[Step], NotEmpty]
    sets: list[list[Natural]]  # visual tokens, each set once
    prefill: Share  # of the visual tokens, mean over layers: what the prompt's layers kept
    decode: Share | None  # the same of decode steps, mean over these too; null where there was none
    kv_bytes: Natural  # of keys and values held after the last step
    kv_bytes_whole: Natural  # the same, had every layer held every token
    notes: list[Text]  # what a reader of the picture must know of the method
    score: NotRequired[float | None]  # of a study's own answer to the sample, in its benchmark's metric


@with_config(CLOSED)
class Picture(TypedDict):
    """The image as the model's processor made it: resized, cropped."""

    webp: Text  # base64
    rows: Positive
    columns: Positive
    # Row and column of each visual token, -1 for a class token; null where tokens are no patches.
    places: list[list[int]] | None
    note: NotRequired[Text]  # why there are no places


@with_config(CLOSED)
class Look(TypedDict):
    """One question about one image, and the answers to it, the unpruned model's first."""

    title: Text  # such as gqa, row 3
    why: NotRequired[Text]  # why this sample was chosen
    question: Text
    references: list[str]
    visual_tokens: Positive
    picture: Picture
    answers: Annotated[list[Answer], NotEmpty]
    failed: NotRequired[Annotated[dict[str, Text], NotEmpty]]  # by method: why it has no answer


@with_config(CLOSED)
class Survival(TypedDict):
    """A study's record of one model."""

    schema: Literal["dyrate.survival"]
    version: Literal[1]
    study: Text
    model: Text
    command: Text
    commit: NotRequired[str | None]
    device: Text
    dtype: Text
    hashes: Hashes
    looks: Annotated[list[Look], NotEmpty]
    knows: NotRequired[Text]  # what a reader must know of a model that this project trained


def in_order(mass: Mass) -> list[float]:
    """The shares as `CLASSES` has them; a file's keys stand in another order."""
    return [mass["sys"], mass["img"], mass["ins"], mass["res"]]


def partial(path: Path) -> Path:
    """Where a record stands while answers of it are missing."""
    return path.with_suffix(".partial.json")


def write(path: Path, survival: Survival) -> None:
    """Check a record and write it atomically; equal ones give equal bytes."""
    typed.check(Survival, survival, path, LookError)
    _check_sets(path, survival)
    write_json(path, survival)


def read(path: Path) -> Survival:
    """Read and check a record; raises `LookError` with a line per problem."""
    survival = typed.read(Survival, path, LookError)
    _check_sets(path, survival)
    return survival


def _check_sets(path: Path, survival: Mapping[str, Any]) -> None:
    """Refuse numbers of sets and of tokens that nothing has."""
    for i, look in enumerate(survival.get("looks", ())):
        places = look["picture"]["places"]
        if places is not None and len(places) != look["visual_tokens"]:
            raise LookError(
                f"{path}: looks.{i}.picture.places: {len(places)} places of {look['visual_tokens']} tokens"
            )
        if wrong := [place for place in places or () if len(place) != 2]:
            raise LookError(f"{path}: looks.{i}.picture.places: {wrong[0]} is no row and column")
        for answer in look["answers"]:
            where = f"{path}: looks.{i}: {answer['label']}"
            for token in (token for tokens in answer["sets"] for token in tokens):
                if token >= look["visual_tokens"]:
                    raise LookError(f"{where}: sets: there is no visual token {token}")
            for number in (number for step in answer["steps"] for number in step["sets"]):
                if number >= len(answer["sets"]):
                    raise LookError(f"{where}: steps: there is no set {number}")
