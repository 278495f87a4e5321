"""From timings to the rows of the table and of the JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median

from dyrate.bench.contenders import Contender
from dyrate.bench.measure import Timings
from dyrate.cost.flops import CONVENTIONS, SCOPES, count, scope
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Phases
from dyrate.speed.costs import CONVENTION, weight_bytes
from dyrate.speed.documents import Limits, Load, Method, Spread, Timing


def rows(
    contenders: Sequence[Contender],
    timings: Sequence[Timings],
    load: Load,
    shape: ModelShape,
    limits: Limits,
    bytes_per_number: int,
) -> Iterator[Timing]:
    """Yield a row per contender; `speedup` is the first contender's time end to end over its own."""
    first = median(timings[0].whole)
    for contender, found in zip(contenders, timings, strict=True):
        assert found.generated is not None
        work, spec = found.generated.work, contender.spec()
        flops = {
            convention: {where: count(scope(work, where), shape, counted).total for where in SCOPES}
            for convention, counted in CONVENTIONS.items()
        }
        steps = found.per_token and work.steps
        read = _step_bytes(work, load, shape, bytes_per_number) if steps else None
        yield Timing(
            contender=contender.name,
            label=contender.label,
            engine=contender.engine,
            method=Method.of(spec) if spec else None,
            **asdict(load),
            first_token_ms=_spread(found.first_token),
            per_token_ms=_spread(found.per_token) if found.per_token else None,
            whole_ms=_spread(found.whole),
            tokens_per_second=load.batch * load.new_tokens / median(found.whole),
            speedup=first / median(found.whole),
            kv_bytes=found.generated.kv_bytes,
            peak_bytes=found.peak_bytes,
            bandwidth_share=read and read / median(found.per_token) / limits.bytes_per_second,
            matrix_share=flops[CONVENTION]["prefill"] / median(found.first_token) / limits.flops_per_second,
            flops=flops,
            step_bytes=read,
            prompt_pass=found.profiles[0] if found.profiles else None,
            decode_step=found.profiles[1] if found.profiles else None,
        )


def _step_bytes(work: Phases, load: Load, shape: ModelShape, bytes_per_number: int) -> float:
    """What a decode step must read: weights once, and keys and values of all rows."""
    numbers = sum(work.decode.pairs) / work.steps * load.batch * shape.text.kv_width
    return weight_bytes(shape, bytes_per_number) + numbers * bytes_per_number


def _spread(seconds: Sequence[float]) -> Spread:
    ordered = sorted(1000 * value for value in seconds)
    return Spread(median=median(ordered), low=ordered[0], high=ordered[-1], rounds=len(ordered))


def table(found: Sequence[Timing]) -> str:
    """The rows for people: medians, with the spread of the whole."""
    cells = [_cells(row) for row in found]
    lines = [tuple(cells[0]), *(tuple(line.values()) for line in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Timing) -> dict[str, str]:
    whole = row.whole_ms
    return {
        "contender": row.contender if row.method is None else row.label,
        "batch": str(row.batch),
        "prompt": str(row.prompt),
        "new": str(row.new_tokens),
        "TTFT ms": f"{row.first_token_ms.median:.2f}",
        "ms/token": f"{row.per_token_ms.median:.2f}" if row.per_token_ms else "–",
        "total ms": f"{whole.median:.1f} ({whole.low:.1f}–{whole.high:.1f})",
        "tokens/s": f"{row.tokens_per_second:.1f}",
        "× first": f"{row.speedup:.2f}",
        "KV MiB": f"{row.kv_bytes / 2**20:.1f}",
        "peak GiB": "–" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
        "bandwidth": "–" if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}",
        "matrix": f"{row.matrix_share:.0%}",
    }
