"""The section of the page: what was measured at the paper's shapes, in tables, pictures and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.report.speed import figures
from dyrate.report.speed.explanation import Paragraph, paragraphs
from dyrate.speed import costs, series, table3
from dyrate.speed.decode_steps import GROUPS, Saving, profiled, savings
from dyrate.speed.documents import FOLDER, BenchDocument, Documents, Provenance, read

COUNTED = f"{CONVENTIONS[table3.CONVENTION].about}; {SCOPES[table3.SCOPE]}"
"""What the percentages of FLOPs count."""


@dataclass(frozen=True)
class Curves:
    """One setting's pictures against the batch, and the contenders' colours and markers."""

    setting: str
    legend: tuple[tuple[str, int, int, bool], ...]
    """Label, numbers of colour and marker, whether dashed."""
    pictures: tuple[Markup, ...]


@dataclass(frozen=True)
class Speed:
    """All of it; `documents` is empty where the checkout has none."""

    folder: str
    documents: Documents
    groups: tuple[table3.Table3Group, ...]
    other_groups: tuple[table3.Table3Group, ...]
    missing: tuple[str, ...]
    roofs: tuple[tuple[str, Markup], ...]
    kinds: tuple[str, ...]
    curves: tuple[Curves, ...]
    step_groups: tuple[str, ...]
    steps: tuple[tuple[str, Markup], ...]
    savings: tuple[tuple[str, tuple[Saving, ...]], ...]
    """By model."""
    overheads: tuple[str, ...]
    words: tuple[Paragraph, ...]
    made: tuple[Provenance, ...]
    replayed: tuple[str, ...]
    counted: str = COUNTED

    @property
    def by_hand(self) -> bool:
        """Whether some replayed rates are no predictor's."""
        return any(
            timing.method is not None and timing.method["name"] == "replay"
            for bench in self.documents.benches
            if bench.replayed is None
            for timing in bench.timings
        )

    @property
    def random(self) -> bool:
        """Whether some model had random weights."""
        return any(made.weights == "random" for made in self.made)


def speed(documents: Documents | None = None) -> Speed:
    """Gather the section, by default from the checkout's documents; raises `SpeedError` for a damaged one."""
    documents = read() if documents is None else documents
    benches = documents.benches
    first, others = table3.groups(benches)
    return Speed(
        folder=FOLDER.as_posix(),
        documents=documents,
        groups=first,
        other_groups=others,
        missing=table3.missing(first),
        roofs=tuple(_roofs(benches)),
        kinds=series.KINDS,
        curves=tuple(_curves(benches)),
        step_groups=GROUPS,
        steps=tuple(_steps(benches)),
        savings=tuple(
            (model, tuple(group))
            for model, group in groupby(savings(benches), lambda saving: saving.bench.model)
        ),
        overheads=tuple(line for bench in benches for line in overheads(bench)),
        words=paragraphs(benches),
        made=(*(bench.made for bench in benches), *(harness.made for harness in documents.harnesses)),
        replayed=tuple(dict.fromkeys(bench.replayed for bench in benches if bench.replayed)),
    )


def _by_machine(benches: Sequence[BenchDocument]) -> list[tuple[str, list[BenchDocument]]]:
    """Table3Group documents, which `read` has put in this order, by model, device and dtype."""

    def key(bench: BenchDocument) -> tuple[str, str, str]:
        return bench.model, bench.made.device, bench.made.dtype

    return [(", ".join(name), list(group)) for name, group in groupby(benches, key=key)]


def _roofs(benches: Sequence[BenchDocument]) -> list[tuple[str, Markup]]:
    return [
        (name, Markup(svg))
        for i, (name, group) in enumerate(_by_machine(benches))
        if (svg := figures.roofline(group, f"roof{i}"))
    ]


def _steps(benches: Sequence[BenchDocument]) -> list[tuple[str, Markup]]:
    return [
        (name, Markup(figures.bars(steps, f"step{i}")))
        for i, (name, group) in enumerate(_by_machine(benches))
        if (steps := profiled(group))
    ]


def _curves(benches: Sequence[BenchDocument]) -> list[Curves]:
    curves = []
    for i, (setting, contenders) in enumerate(series.by_batch(benches).items()):
        drawn = (
            figures.curve(contenders, title, value, f"speed{i}-{j}")
            for j, (title, value) in enumerate(figures.MEASURES)
        )
        legend = ((one.label, *figures.look(one), one.engine != "graph") for one in contenders)
        curves.append(Curves(str(setting), tuple(legend), tuple(Markup(svg) for svg in drawn if svg)))
    return curves


def overheads(bench: BenchDocument) -> list[str]:
    """What predictors that drop nothing add to the unpruned model's times, a sentence per load."""
    sentences = []
    for load in bench.loads:
        extra: dict[str, list[float]] = {"the first token": [], "each further one": []}
        for timing in bench.under(load):
            whole = costs.same(bench.timings, timing)
            if timing.overhead and whole is not None:
                extra["the first token"].append(timing.first_token.median / whole.first_token.median - 1)
                if timing.per_token and whole.per_token:
                    extra["each further one"].append(timing.per_token.median / whole.per_token.median - 1)
        parts = [f"{_span(values)} to {name}" for name, values in extra.items() if values]
        if parts:
            sentences.append(
                f"{bench.model}, batch {load.batch}, prompt {load.prompt}, N = {load.new_tokens}: "
                + " and ".join(parts)
                + (f" (commit {bench.made.commit[:7]})" if bench.made.commit else "")
            )
    return sentences


def _span(shares: Sequence[float]) -> str:
    ends = [f"{share:+.1%}".replace("-", "−") for share in (min(shares), max(shares))]
    return " to ".join(dict.fromkeys(ends)).replace("% to", " to")
