"""The section of the page: what was measured at the paper's shapes, in tables, pictures and words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from dyrate.analysis.words import say
from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.report.drawing import Picture
from dyrate.report.looks import Look, Mark, looks
from dyrate.report.speed import figures
from dyrate.report.speed.explanation import Paragraph, paragraphs
from dyrate.speed import costs, series, table3
from dyrate.speed.documents import FOLDER, BenchDocument, Document, Documents, read
from dyrate.speed.passes import GROUPS, Saving, profiled, savings

COUNTED = f"{CONVENTIONS[costs.CONVENTION].about}; {SCOPES[table3.SCOPE]}"
"""What the percentages of FLOPs count."""


@dataclass(frozen=True)
class Curves:
    """One setting's pictures against the batch, and the contenders' marks."""

    setting: str
    legend: tuple[tuple[str, Mark, bool], ...]
    """Label, mark, whether dashed."""
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Speed:
    """All of it; `documents` is empty where the checkout has none."""

    folder: str
    documents: Documents
    groups: tuple[table3.Table3Group, ...]
    other_groups: tuple[table3.Table3Group, ...]
    missing: tuple[str, ...]
    roofs: tuple[tuple[str, Picture], ...]
    kinds: tuple[tuple[str, Look], ...]
    """Families of methods among the contenders."""
    curves: tuple[Curves, ...]
    step_groups: tuple[tuple[str, float], ...]
    """Parts of a step, and how dark each is."""
    steps: tuple[tuple[str, Picture], ...]
    prompts: tuple[tuple[str, Picture], ...]
    savings: tuple[tuple[str, tuple[Saving, ...]], ...]
    """By model."""
    overheads: tuple[str, ...]
    words: tuple[Paragraph, ...]
    made: tuple[Document, ...]
    replayed: tuple[str, ...]
    counted: str = COUNTED

    @property
    def by_hand(self) -> bool:
        """Whether some replayed rates are no predictor's."""
        return any(
            timing.method is not None and timing.method.name == "replay"
            for bench in self.documents.benches
            if bench.replayed is None
            for timing in bench.rows
        )

    @property
    def random(self) -> bool:
        """Whether some model had random weights."""
        return any(made.weights == "random" for made in self.made)


def speed(documents: Documents | None = None, families: Mapping[str, Look] | None = None) -> Speed:
    """Gather the section, by default from the checkout's documents; raises `DyrateError` for a bad one.

    `families` are the report's looks, which the methods here have as well.
    """
    documents = read() if documents is None else documents
    benches = documents.benches
    if families is None:
        families = looks((), timed(benches))
    first, others = table3.groups(benches)
    return Speed(
        folder=FOLDER.as_posix(),
        documents=documents,
        groups=first,
        other_groups=others,
        missing=table3.missing(first),
        roofs=tuple(_roofs(benches, families)),
        kinds=tuple(_kinds(benches, families).items()),
        curves=tuple(_curves(benches, families)),
        step_groups=tuple(zip(GROUPS, figures.SHADES, strict=True)),
        steps=tuple(_passes(benches, "decode_step")),
        prompts=tuple(_passes(benches, "prompt_pass")),
        savings=tuple(
            (model, tuple(group))
            for model, group in groupby(savings(benches), lambda saving: saving.bench.shape_name)
        ),
        overheads=tuple(line for bench in benches for line in overheads(bench)),
        words=paragraphs(benches),
        made=(*benches, *documents.harnesses),
        replayed=tuple(dict.fromkeys(bench.replayed for bench in benches if bench.replayed)),
    )


def _by_machine(benches: Sequence[BenchDocument]) -> list[tuple[str, list[BenchDocument]]]:
    """Group documents, which `read` has put in this order, by model, device and dtype."""

    def key(bench: BenchDocument) -> tuple[str, str, str]:
        return bench.shape_name, bench.device, bench.dtype

    return [(", ".join(name), list(group)) for name, group in groupby(benches, key=key)]


def timed(benches: Sequence[BenchDocument]) -> list[str]:
    """The families of methods that were timed."""
    known = [timing for bench in benches for timing in bench.rows if timing.method and not timing.given]
    return list(dict.fromkeys(figures.family(timing) for timing in known))


def _kinds(benches: Sequence[BenchDocument], families: Mapping[str, Look]) -> dict[str, Look]:
    return {
        timing.name.partition(" (")[0] if timing.method else "transformers by itself": families.get(
            figures.family(timing), figures.PEER
        )
        for bench in benches
        for timing in bench.rows
        if not timing.overhead
    }


def _roofs(benches: Sequence[BenchDocument], families: Mapping[str, Look]) -> list[tuple[str, Picture]]:
    return [
        (name, picture)
        for i, (name, group) in enumerate(_by_machine(benches))
        if (picture := figures.roofline(name, group, families, f"roofline-{i}"))
    ]


def _passes(
    benches: Sequence[BenchDocument], which: Literal["prompt_pass", "decode_step"]
) -> list[tuple[str, Picture]]:
    what = which.replace("_", " ")
    return [
        (name, figures.bars(f"What a {what} consists of, {name}", found, f"{which.replace('_', '-')}-{i}"))
        for i, (name, group) in enumerate(_by_machine(benches))
        if (found := profiled(group, which))
    ]


def _curves(benches: Sequence[BenchDocument], families: Mapping[str, Look]) -> list[Curves]:
    curves = []
    settings = series.by_batch(benches)
    marks = figures.contenders((one for found in settings.values() for one in found), families)
    for i, (setting, found) in enumerate(settings.items()):
        drawn = (
            figures.curve(str(setting), found, marks, title, value, f"batch-{i}-{key}")
            for key, title, value in figures.MEASURES
        )
        legend = ((one.label, marks[one.label, one.engine], one.engine != figures.ENGINE) for one in found)
        curves.append(Curves(str(setting), tuple(legend), tuple(picture for picture in drawn if picture)))
    return curves


def overheads(bench: BenchDocument) -> list[str]:
    """What predictors that drop nothing add to the unpruned model's times, a sentence per load."""
    sentences = []
    for load in bench.loads:
        pairs = [
            (timing, whole)
            for timing in bench.under(load)
            if timing.overhead and (whole := costs.same(bench, timing))
        ]
        first = [costs.ratio(mine.first_token_ms, whole.first_token_ms) for mine, whole in pairs]
        later = [costs.ratio(mine.per_token_ms, whole.per_token_ms) for mine, whole in pairs]
        shares = [[100 * (share - 1) for share in known if share is not None] for known in (first, later)]
        if any(shares):
            sentences.append(say("overhead", bench=bench, load=load, first=shares[0], later=shares[1]))
    return sentences
