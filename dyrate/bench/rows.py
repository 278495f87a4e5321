"""From timings to the rows of the table and of the JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from dyrate.bench.contenders import Contender
from dyrate.bench.limits import Limits
from dyrate.bench.measure import Load, Timings
from dyrate.cost.flops import CONVENTIONS, count
from dyrate.cost.shapes import ModelShape

HEADINGS = (
    "contender", "batch", "prompt", "new", "TTFT ms", "ms/token", "total ms", "tokens/s", "× first",
    "KV MiB", "peak GiB", "bandwidth", "matrix",
)  # fmt: skip


def rows(
    contenders: Sequence[Contender],
    timings: Sequence[Timings],
    load: Load,
    shape: ModelShape,
    limits: Limits,
    bytes_per_number: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row per contender; `speedup` is the first contender's time end to end over its own."""
    first = median(timings[0].whole)
    for contender, found in zip(contenders, timings, strict=True):
        assert found.generated is not None
        work = found.generated.work
        prefill = count(work.prefill, shape, CONVENTIONS["flops"]).total
        yield {
            "contender": contender.name,
            "label": contender.label,
            "engine": contender.engine,
            "method": contender.spec(),
            **asdict(load),
            "first_token_ms": _spread(found.first_token),
            "per_token_ms": _spread(found.per_token),
            "whole_ms": _spread(found.whole),
            "tokens_per_second": load.batch * load.new_tokens / median(found.whole),
            "speedup": first / median(found.whole),
            "kv_bytes": found.generated.kv_bytes,
            "peak_bytes": found.peak_bytes,
            "bandwidth_share": _bandwidth(
                found, work.decode.pairs, work.steps, load, shape, limits, bytes_per_number
            ),
            "matrix_share": prefill / median(found.first_token) / limits.flops_per_second,
            "decode_step": None if found.step is None else asdict(found.step),
        }


def _bandwidth(
    found: Timings,
    pairs: Sequence[int],
    steps: int,
    load: Load,
    shape: ModelShape,
    limits: Limits,
    bytes_per_number: int,
) -> float | None:
    """The share of the bandwidth that a decode step uses for what it must read: weights once, and keys and
    values of all rows; None without decode steps.
    """
    if not found.per_token or not steps:
        return None
    text = shape.text
    weights = text.parameters - text.vocabulary * text.hidden  # of the embedding, only a row per token
    read = weights + sum(pairs) / steps * load.batch * text.kv_width
    return read * bytes_per_number / median(found.per_token) / limits.bytes_per_second


def _spread(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(1000 * value for value in seconds)
    return {"median": median(ordered), "low": ordered[0], "high": ordered[-1], "rounds": len(ordered)}


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows for people: medians, with the spread of the whole."""
    lines = [HEADINGS, *(_cells(row) for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def milliseconds(key: str) -> str:
        spread = row[key]
        return "–" if spread is None else f"{spread['median']:.2f}"

    whole = row["whole_ms"]
    return (
        row["contender"] if row["method"] is None else row["label"],
        str(row["batch"]),
        str(row["prompt"]),
        str(row["new_tokens"]),
        milliseconds("first_token_ms"),
        milliseconds("per_token_ms"),
        f"{whole['median']:.1f} ({whole['low']:.1f}–{whole['high']:.1f})",
        f"{row['tokens_per_second']:.1f}",
        f"{row['speedup']:.2f}",
        f"{row['kv_bytes'] / 2**20:.1f}",
        "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}",
        "–" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}",
        f"{row['matrix_share']:.0%}",
    )
