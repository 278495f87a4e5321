"""Files of questions about images, with or without answers: JSON lines and parquet."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dyrate.errors import DyrateError
from dyrate.files import parse_json


def questions_from(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield (PIL image, question) of a JSON-lines or parquet file with the fields `image` and `question`.

    In JSON lines `image` is a path, relative to the file; in parquet a Hugging Face Image with its bytes.
    Raises `DyrateError`, with the line or row, for anything else.
    """
    for image, (question,) in _entries(path, ("question",)):
        yield image, question


def answered_questions_from(path: Path) -> Iterator[tuple[Any, str, str]]:
    """Yield (PIL image, question, answer) of a file as for `questions_from`, with the field `answer` too."""
    for image, (question, answer) in _entries(path, ("question", "answer")):
        yield image, question, answer


def _entries(path: Path, texts: tuple[str, ...]) -> Iterator[tuple[Any, list[str]]]:
    """Yield the image and the text fields `texts` of every entry."""
    if path.suffix == ".parquet":
        yield from _from_parquet(path, texts)
    elif path.suffix in (".jsonl", ".json"):
        yield from _from_json_lines(path, texts)
    else:
        raise DyrateError(f"--data {path}: expected a .jsonl or .parquet file")


def _from_json_lines(path: Path, texts: tuple[str, ...]) -> Iterator[tuple[Any, list[str]]]:
    try:
        lines = _read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DyrateError(f"--data {path}: expected UTF-8 text ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"--data {path}, line {number}"
        entry = parse_json(line, f"{where}: {line!r:.80}")
        match entry:
            case {"image": str() as image} if (values := _texts(entry, texts)) is not None:
                yield decoded(_read(path.parent / image), where), values
            case _:
                fields = "".join(f', "{name}": text' for name in texts)
                raise DyrateError(f'{where}: {line!r:.80}; expected {{"image": path{fields}}}')


def _from_parquet(path: Path, texts: tuple[str, ...]) -> Iterator[tuple[Any, list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(_read(path)))
    except (pa.ArrowException, OSError) as error:
        raise DyrateError(f"--data {path}: not a parquet file ({error})") from None
    columns = set(file.schema_arrow.names)
    if missing := {"image", *texts} - columns:
        raise DyrateError(
            f"--data {path}: no column {', '.join(sorted(missing))}; it has {', '.join(sorted(columns))}"
        )
    for row, entry in enumerate(_entries_of(file, ["image", *texts], path)):
        where = f"--data {path}, row {row}"
        values = _texts(entry, texts)
        match entry:
            case {"image": {"bytes": bytes() as data}} if data and values is not None:
                yield decoded(data, where), values
            case _:
                raise DyrateError(
                    f"{where}: {entry!r:.80}; expected a text {' and '.join(f'`{name}`' for name in texts)} "
                    "and a Hugging Face Image, a struct of `bytes` and `path`, as `image`; a path without "
                    "bytes is not followed"
                )


def _entries_of(file: Any, columns: list[str], path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=16, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DyrateError(f"--data {path}: cannot be read: {error}") from None


def _texts(entry: dict[str, Any], names: tuple[str, ...]) -> list[str] | None:
    """The entry's text fields; None if one of them is missing, empty or no text."""
    present = [text for name in names if isinstance(text := entry.get(name), str) and text.strip()]
    return present if len(present) == len(names) else None


def decoded(data: bytes, where: str) -> Any:
    """Return the PIL image in `data`, in RGB; `where` it came from goes into the error."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval, once imported, has Pillow fill up broken images
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode.startswith(("I", "F")):  # RGB would cut off all above 255
            raise DyrateError(
                f"{where}: the image has more than 8 bits per color (mode {image.mode}); convert it"
            )
        return image.convert("RGB")
    except UnidentifiedImageError:
        raise DyrateError(f"{where}: the {len(data)} bytes of the image are of no known format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DyrateError(f"{where}: the image cannot be decoded ({error})") from None


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise DyrateError(f"--data: cannot read {path}: not a file")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DyrateError(f"--data: cannot read {path}: {getattr(error, 'strerror', error)}") from None
