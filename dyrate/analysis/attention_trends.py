"""What the traces of a study's models say of where they look while they answer, in words."""

from collections.abc import Sequence
from pathlib import Path

from dyrate.analysis.words import say
from dyrate.evaluation.placement import is_of
from dyrate.evaluation.results import Estimate
from dyrate.study import Model, Study
from dyrate.trace import study_jobs as tracing
from dyrate.trace.files import Summary, TracedBenchmark, TraceError, TraceFiles, read_summary


def read_summaries(study: Study) -> tuple[Summary, ...]:
    """Read the traces that are there, in the order of the study's models.

    Of a model whose trace failed on some benchmarks, the part that there is.

    Raises `TraceError` for a damaged trace and for one of another study or model.
    """
    return tuple(
        found
        for model in study.models
        for whole in [TraceFiles.in_study(study.name, model.name)]
        for path in [path for path in (whole.summary, whole.partial.summary) if path.exists()][:1]
        if (found := _read(study, model, path)) is not None
    )


def _read(study: Study, model: Model, path: Path) -> Summary | None:
    """The trace; None for a part of one that was asked for otherwise than the study asks now."""
    summary = read_summary(path)
    for key, given, expected in (
        ("study", summary["study"], study.name),
        ("model", summary["model"], model.name),
    ):
        if given != expected:
            raise TraceError(f"{path}: {key}: is {given!r}, but its place is that of {expected!r}")
    if "failed" in summary and not (
        study.typed.trace and is_of(summary["meta"]["command"], tracing.job(study, model))
    ):
        return None
    return summary


def sentences(benchmarks: Sequence[TracedBenchmark]) -> list[str]:
    """What one model's traces say of the claim that visual attention decays as the answer grows."""
    growing = [benchmark["trends"] for benchmark in benchmarks if benchmark["trends"]]
    if not growing:
        return [say("too_short")]
    image = [trends["img"] for trends in growing]
    changes, ranks = [t["difference"] for t in image], [t["rank_correlation"] for t in image]
    signs = [(_sign(change), _sign(rank)) for change, rank in zip(changes, ranks, strict=True)]
    of_prompt = [trends["img_of_prompt"]["difference"] for trends in growing]
    facts = {
        "benchmarks": len(image),
        "both": signs.count((-1, -1)),
        "one": sum(pair.count(-1) == 1 for pair in signs),
        "changes": _points(changes),
        "ranks": [rank["value"] for rank in ranks],
        "monotone": [trend["never_rises"]["value"] for trend in image],
        "of_prompt": _points(of_prompt),
        "room": sum(
            sign == -1 and _sign(part) != -1 for (sign, _), part in zip(signs, of_prompt, strict=True)
        ),
    }
    told = (say(sentence, **facts) for sentence in ("decays", "monotone", "of_prompt", "makes_room"))
    return [sentence for sentence in told if sentence]


def _points(changes: Sequence[Estimate]) -> list[float]:
    return [100 * change["value"] for change in changes]


def _sign(estimate: Estimate) -> int:
    """On which side of zero the interval lies; 0 where it holds zero, or where there is none."""
    if estimate["low"] is None or estimate["high"] is None:
        return 0
    return (estimate["low"] > 0) - (estimate["high"] < 0)
