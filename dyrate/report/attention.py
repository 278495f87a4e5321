"""Where the models look while they answer: the rows, words and pictures of a study's traces."""

from dataclasses import dataclass

from dyrate.analysis.attention_trends import read_summaries, sentences
from dyrate.analysis.tables import heading
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import attention_figures as figures
from dyrate.report.drawing import Picture
from dyrate.study import Study
from dyrate.trace.files import Summary, TracedBenchmark


@dataclass(frozen=True)
class TraceRow:
    """One model on one benchmark."""

    model: str
    benchmark: str
    traced: TracedBenchmark


@dataclass(frozen=True)
class AttentionSection:
    """The section of the report."""

    rows: tuple[TraceRow, ...]
    words: dict[str, tuple[str, ...]]  # by model
    curves: tuple[tuple[str, Picture], ...]  # with their headings
    maps: tuple[tuple[str, Picture], ...]
    summaries: tuple[Summary, ...]


def attention(study: Study) -> AttentionSection | None:
    """Gather the traces of a study's models; None where there are none.

    Raises `TraceError` for a damaged trace and for one of another study or model.
    """
    summaries = read_summaries(study)
    if not summaries:
        return None
    order = [name for name in study.benchmarks if any(name in s["benchmarks"] for s in summaries)]
    rows = tuple(
        TraceRow(summary["model"], name, traced)
        for name in order
        for summary in summaries
        if (traced := summary["benchmarks"].get(name))
    )
    growing = [name for name in order if any(row.benchmark == name and row.traced["trends"] for row in rows)]
    return AttentionSection(
        rows=rows,
        words={
            s["model"]: tuple(sentences([row.traced for row in rows if row.model == s["model"]]))
            for s in summaries
        },
        curves=tuple((heading(name), figures.curves(summaries, name)) for name in growing),
        maps=tuple(
            (f"{s['model']}, {heading(name)}", figures.layers(summaries, i, name))
            for name in [name for name in growing if BENCHMARKS[name].group == "caption"][:1]
            for i, s in enumerate(summaries)
            if name in s["benchmarks"]
        ),
        summaries=summaries,
    )
