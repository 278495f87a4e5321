"""What the traces of a study's models say of where they look while they answer, in words."""

from collections.abc import Sequence
from pathlib import Path

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
    asked = study.typed.trace and tracing.job(study, model).command()
    return None if "failed" in summary and summary["meta"]["command"] != asked else summary


def sentences(benchmarks: Sequence[TracedBenchmark]) -> list[str]:
    """What one model's traces say of the claim that visual attention decays as the answer grows."""
    growing = [benchmark["trends"] for benchmark in benchmarks if benchmark["trends"]]
    if not growing:
        return ["Its answers are too short to grow, so the question does not arise."]
    image = [trends["img"] for trends in growing]
    changes, ranks = [t["difference"] for t in image], [t["rank_correlation"] for t in image]
    signs = [(_sign(change), _sign(rank)) for change, rank in zip(changes, ranks, strict=True)]
    both, one = signs.count((-1, -1)), sum(pair.count(-1) == 1 for pair in signs)
    monotone = [trend["never_rises"]["value"] for trend in image]
    of_prompt = [trends["img_of_prompt"]["difference"] for trends in growing]
    room = sum(sign == -1 and _sign(part) != -1 for (sign, _), part in zip(signs, of_prompt, strict=True))
    more = f", by one of them on {one} more" if one else ""
    statements = [
        f"By both measures, attention on the image decays on {both} of {_benchmarks(len(image))} whose "
        f"answers grow{more}: from the first step to the last quarter it changes by "
        f"{_points(changes)}, and its rank correlation with the step is "
        f"{_span([rank['value'] for rank in ranks], 2)}.",
        f"Answers that decay monotonically: {_span(monotone, 0, sign='')}%."
        if any(monotone)
        else "No answer decays monotonically: in each, some step has more of it than the one before.",
        f"The image’s part of what goes to the prompt changes by {_points(of_prompt)}.",
    ]
    if room:
        statements.append(
            f"On {_benchmarks(room)} attention on the image falls and its part of the prompt’s does not: "
            "there the image makes room for the response and loses nothing to the rest of the prompt."
        )
    return statements


def _points(changes: Sequence[Estimate]) -> str:
    return f"{_span([100 * change['value'] for change in changes], 1)} percentage points"


def _benchmarks(count: int) -> str:
    return f"{count} benchmark{'' if count == 1 else 's'}"


def _sign(estimate: Estimate) -> int:
    """On which side of zero the interval lies; 0 where it holds zero, or where there is none."""
    if estimate["low"] is None or estimate["high"] is None:
        return 0
    return (estimate["low"] > 0) - (estimate["high"] < 0)


def _span(values: Sequence[float], digits: int, sign: str = "+") -> str:
    """The least and the greatest of some numbers, as "−7.0 to −6.7"."""
    ends = [f"{value:{sign}.{digits}f}".replace("-", "−") for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))
