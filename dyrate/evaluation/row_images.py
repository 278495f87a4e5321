"""The images of a benchmark's rows: which columns they stand in, and that they bring their bytes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import Benchmark
from dyrate.evaluation.rows import CHOSEN, listed, wrong


def with_images(benchmark: Benchmark, dataset: Any) -> Any:
    """Return the rows with images in their columns where the files do not say that they are, but can be."""
    from datasets import Image

    for column in benchmark.images:
        kind = dataset.features.get(column)
        if isinstance(kind, dict) and {*kind} == {"bytes", "path"}:
            dataset = dataset.cast_column(column, Image())
    return dataset


def check_images(benchmark: Benchmark, dataset: Any, rows: Sequence[int], where: str) -> None:
    """Refuse rows whose images do not bring their bytes: a path in their place would be opened.

    `rows` are the numbers of the dataset's rows in the data. Images are decoded when they are asked about.
    """
    import pyarrow.compute as pc
    from datasets import Image

    for column in benchmark.images:
        kind = dataset.features.get(column)
        if not isinstance(kind, Image):
            found = "missing" if kind is None else f"of the type {kind}"
            raise DyrateError(
                f"{where}: the column {column!r} is {found:.80}; it should be a Hugging Face Image, a struct "
                "of `bytes` and `path`"
            )
    wanted = _images_wanted(benchmark, dataset, rows, where)
    for column, places in wanted.items():
        stored = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        stored = stored.with_format("arrow")
        if len(places) < len(dataset):
            stored = stored.select(places)
        numbers = (rows[place] for place in places)
        for batch in stored.iter(batch_size=256):
            sizes = pc.binary_length(pc.struct_field(batch[column], "bytes")).to_pylist()
            for size, row, entry in zip(sizes, numbers, batch[column], strict=False):
                if not size:
                    raise DyrateError(
                        f"{where}, row {row}, column {column!r}: {entry.as_py()!r:.120} holds no bytes of an "
                        "image; paths and addresses are not followed"
                    )


def _images_wanted(
    benchmark: Benchmark, dataset: Any, rows: Sequence[int], where: str
) -> Mapping[str, Sequence[int]]:
    """By column, the places of the rows that are asked with its image: all, or those whose text names it."""
    if len(benchmark.images) == 1:
        return {benchmark.images[0]: range(len(dataset))}
    texts = dataset.select_columns(["question", "options", "question_type"]).with_format(None)[:]
    found: dict[str, list[int]] = {column: [] for column in benchmark.images}
    blind = 0
    for place, (question, options, kind) in enumerate(zip(*texts.values(), strict=True)):
        text = question + (" ".join(listed(options)) if kind == CHOSEN else "")
        named = {f"image_{number}" for number in re.findall(r"<image (\d+)>", text)}
        if not named <= found.keys():
            expected = (
                f"a text that names, itself or in its options, images from <image 1> to <image {len(found)}>"
            )
            raise wrong(where, rows[place], "question", text, expected)
        blind += not named
        for column in named:
            found[column].append(place)
    if blind:
        logger.warning(
            "{}: {} of {} rows name no image: they are asked without one, as by lmms-eval",
            where,
            blind,
            len(rows),
        )
    return {column: places for column, places in found.items() if places}
