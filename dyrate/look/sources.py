"""What is looked at: a photo, decoded as an evaluation decodes its rows, or a scene of the testbed."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from dyrate.errors import DyrateError
from dyrate.evaluation.requests import Question, Request, images_in, new_tokens
from dyrate.files import read_bytes
from dyrate.typed import meant

if TYPE_CHECKING:
    from dyrate.evaluation.adapter import DyrateModel
    from dyrate.evaluation.harness_tasks import LoadedTask


def photo(path: Path) -> Image.Image:
    """Read an image: the first frame, turned as its camera says, in RGB.

    Raises `DyrateError` for a file that is missing, no image, cut off, or of more than 8 bits per color.
    """
    data = read_bytes(path)

    def decode() -> Image.Image:
        from datasets import Image as Column

        decoded: Image.Image = Column().decode_example({"bytes": data, "path": None})
        return decoded

    try:
        return in_colors(decode, str(path))
    except DyrateError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise DyrateError(f"{path}: its {len(data)} bytes are no image of a known format") from None
        raise


def in_colors(read: Callable[[], Image.Image], where: str) -> Image.Image:
    """An image in RGB, as the benchmarks' tasks make it of their rows; checked as theirs are."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval has Pillow fill up broken images with grey
    [found] = images_in(lambda: {"image": read()}, lambda row: [row["image"].convert("RGB")], where)
    return found


class Scene(NamedTuple):
    """A row of a testbed benchmark, as the model is asked about it."""

    question: Question
    text: str
    references: list[str]
    new_tokens: int


def scene(model: "DyrateModel", name: str, asked: str | None = None) -> Scene:
    """Draw the scene `benchmark:number` of the testbed's world, with its question or with `asked`.

    Raises `DyrateError` for an unknown benchmark and for what is no number.
    """
    from dyrate.evaluation.benchmarks import select
    from dyrate.evaluation.harness_tasks import load_tasks
    from dyrate.testbed.benchmarks.build import build, rows

    benchmark, number = scene_of(name)
    with TemporaryDirectory(prefix="dyrate-scene-") as folder:
        build([benchmark], number + 1, 0, folder)
        [loaded] = load_tasks(select([benchmark]), "testbed", Path(folder), None)
        request = requests_of(model, loaded)[number]
        *_, item = (row for row, _ in zip(rows(benchmark, number + 1, 0), range(number + 1), strict=False))
        images = images_in(
            lambda: loaded.task.dataset[request.split][request.doc_id], request.doc_to_visual, name
        )
    text = request.context if asked is None else asked
    of_ours = Request(text, request.arguments, request.doc_to_visual, number, benchmark, request.split)
    limit = new_tokens(request, {"name": "greedy", "num_beams": 1, "do_sample": False})
    references = [item.answer] if asked is None else []
    return Scene(model.question(of_ours, images), text, references, limit)


def scene_of(name: str) -> tuple[str, int]:
    """The benchmark and the row that `benchmark:number` names; the first row where no number is given."""
    from dyrate.testbed.benchmarks.specs import BENCHMARKS

    benchmark, _, number = name.partition(":")
    if benchmark not in BENCHMARKS:
        raise DyrateError(f"--sample {name}: unknown benchmark {benchmark!r}{meant(benchmark, BENCHMARKS)}")
    number = number or "0"
    if not number.isdecimal() or len(number) > 5:
        raise DyrateError(f"--sample {name}: {number!r:.80} is no row; a benchmark's are numbered from 0 on")
    return benchmark, int(number)


def requests_of(model: "DyrateModel", loaded: "LoadedTask") -> dict[int, Request]:
    """What lmms-eval asks of a task's rows, by row of the benchmark's data."""
    from dyrate.evaluation.harness import questions_of

    asked: list[Any] = [Request.of(instance.args) for instance in questions_of(model, loaded)]
    return {loaded.rows[one.doc_id]: one for one in asked}
