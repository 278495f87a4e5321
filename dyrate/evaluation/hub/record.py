"""What `dyrate fetch` leaves behind: of which commit which files, in the hub's cache, and their hashes.

Or, where a data set did not come and others are to go on, why.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from dyrate import typed
from dyrate.errors import DyrateError
from dyrate.evaluation.hub.repository import Repository
from dyrate.files import digest, read_json, write_json
from dyrate.typed import Natural, NotEmpty, Record, Text

SCHEMA: Final = "dyrate.fetched"
ABSENT: Final = "dyrate.not_fetched"


class FetchedFile(TypedDict):
    """A file of the commit."""

    path: Text
    size: Natural
    sha256: Text


class Part(TypedDict):
    """The files of one split of a data set, in their order; those of a model."""

    split: NotRequired[Text]
    config: NotRequired[Text | None]
    files: Annotated[list[FetchedFile], NotEmpty]


@with_config(Record.model_config)
class Fetched(TypedDict):
    """A model, or what a benchmark needs of a data set."""

    schema: Literal["dyrate.fetched"]
    version: Literal[1]
    kind: Literal["model", "dataset"]
    name: Text
    commit: Text
    parts: Annotated[list[Part], NotEmpty]


def read(path: Path) -> Fetched:
    """Read a record; a `DyrateError` for a file that is none, and for one of what did not come."""
    if (why := absence(path)) is not None:
        raise DyrateError(f"{path}: was not fetched: {why}")
    return typed.read(Fetched, path, DyrateError)


def absence(path: Path) -> str | None:
    """Why what the record is of did not come; None if it did, or if there is no sound record."""
    found = None
    with suppress(DyrateError):
        found = read_json(path, DyrateError) if path.is_file() else None
    return str(found.get("why")) if isinstance(found, dict) and found.get("schema") == ABSENT else None


def write_absence(path: Path, why: str) -> None:
    """Say in the record's place why there is none."""
    write_json(path, {"schema": ABSENT, "version": 1, "why": why})


def write(path: Path, fetched: Fetched) -> None:
    """Write a record; the same files give the same bytes."""
    typed.write(Fetched, path, fetched, DyrateError)


def paths(fetched: Fetched, part: int = 0) -> list[Path]:
    """The files of a part in the hub's cache; a `HubError` where one is not there as it was fetched."""
    repository, commit = Repository(fetched["kind"], fetched["name"]), fetched["commit"]
    files = fetched["parts"][part]["files"]
    return [repository.cached(commit, file["path"], file["size"]) for file in files]


def complete(fetched: Fetched) -> None:
    """Raise a `HubError` unless all files are in the hub's cache."""
    for part in range(len(fetched["parts"])):
        paths(fetched, part)


def size(fetched: Fetched) -> int:
    """Bytes of all its files."""
    return sum(file["size"] for part in fetched["parts"] for file in part["files"])


def content_hash(fetched: Fetched) -> str:
    """sha256 over the bytes of all its files."""
    return digest("\n".join(file["sha256"] for part in fetched["parts"] for file in part["files"]).encode())
