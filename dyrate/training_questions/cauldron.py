"""The open data set that training questions are taken from: two subsets of The Cauldron, and how a row reads.

vqav2 and textcaps, because LLaVA-1.5 was itself tuned on both, and on the very prompts that its benchmarks
use: what its answers lose is then lost to pruning, not to strange words. Their images are of the training
splits of COCO and OpenImages, and stand in the parquet files, so that a few thousand rows are one gigabyte
and no second source. Left out: localized_narratives (spoken, in the first person, partly about Flickr30k's
images, which are a benchmark here), cocoqa (generated questions on COCO's validation images, too), visual7w
(letters to choose from, images of both splits of COCO).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.prompts import CAPTION, short_prompt

_AHEAD = 512  # rows, held encoded, of which the next is drawn; beside a random order of the files


def _question(user: str, assistant: str) -> tuple[str, str]:
    """VQAv2's question, which the data set follows by a line that asks for brevity, and its answer, which it
    ends with a full stop.
    """
    question, answer = user.partition("\n")[0].strip(), assistant.strip().removesuffix(".")
    return question and short_prompt(question), answer


def _caption(user: str, assistant: str) -> tuple[str, str]:
    """A caption, whatever words of many it was asked for with."""
    return CAPTION, assistant.strip()


@dataclass(frozen=True)
class Subset:
    """A subset, and what its turns become."""

    name: str
    read: Callable[[str, str], tuple[str, str]]

    def turn(self, row: Any, *key: int | str) -> tuple[bytes, str, str] | None:
        """Return the image, prompt and answer of one of a row's turns, drawn by the key; None for a row of
        several images, or without a turn that says something.
        """
        match row["images"]:
            case [{"bytes": bytes() as image}] if image:
                turns = [self.read(turn["user"] or "", turn["assistant"] or "") for turn in row["texts"]]
                whole = [turn for turn in turns if all(turn)]
                return (image, *Draw(self.name, *key).pick(whole)) if whole else None
        return None


QUESTIONS, CAPTIONS = Subset("vqav2", _question), Subset("textcaps", _caption)


@contextmanager
def reading(source: str, subset: Subset) -> Iterator[None]:
    """Turn what is wrong with a source into a `DyrateError` of one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except DyrateError:
        raise
    except (OSError, DatasetsError, ValueError, LookupError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DyrateError(
            f"--source {source}: its subset {subset.name} cannot be read: {reason:.300}"
        ) from error


def rows_of(source: str, revision: str | None, subset: Subset, seed: int) -> tuple[Iterator[Any], str | None]:
    """Open a subset; return its rows, in an order drawn by the seed and streamed, and the commit that they
    are of, None for a folder. A row has `images`, undecoded, and `texts`.

    Raises `DyrateError` for what is not there, or has other columns.
    """
    from datasets import load_dataset_builder

    with reading(source, subset):
        builder = load_dataset_builder(source, subset.name, revision=revision)
        stream = builder.as_streaming_dataset(split="train")
        columns = list(stream.features or next(iter(stream)))
    if missing := [name for name in ("images", "texts") if name not in columns]:
        raise DyrateError(
            f"--source {source}: its subset {subset.name} has no column {missing[0]}; it has "
            f"{', '.join(columns)}"
        )
    commit = re.search("@([0-9a-f]{40})/", str((builder.config.data_files or {}).get("train", [""])[0]))
    rows = iter(stream.decode(False).shuffle(seed=seed, buffer_size=_AHEAD))
    return rows, commit and commit.group(1)
