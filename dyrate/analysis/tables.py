"""Tables I to III as data: published rows and measured ones laid out as in the paper.

A table is declared: its columns, and its parts, each of which takes rows that the parts above it have left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from dyrate.analysis import cost
from dyrate.analysis.cells import Column, Row, Table
from dyrate.analysis.latency import Latencies
from dyrate.analysis.measurement import Measurement, grouped
from dyrate.analysis.words import say
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.paper import published
from dyrate.paper.published import PublishedRow
from dyrate.study import Study

TABLE1 = (
    Column("gqa", "GQA", "EM", "gqa_em"),
    Column("vizwiz", "VizWiz", "EM", "vizwiz_em", "a"),
    Column("sqa", "SQA", "EM", "sqa_em"),
    Column("vqav2", "VQA", "EM", "vqa_em", "b"),
    Column("textvqa", "TextVQA", "EM", None, "b"),
    Column("pope", "POPE", "accuracy", "pope_acc"),
    Column("mmb", "MMB", "accuracy", "mmb_acc", "c"),
    Column("mme", "MME", "score", "mme_score", "d"),
)
TABLE2 = (
    Column("nocaps", "NoCaps", "CIDEr", "nocaps_cider"),
    Column("flickr30k", "Flickr30k", "CIDEr", "flickr30k_cider"),
    Column("coco2017", "COCO2017", "CIDEr", "coco2017_cider"),
)
_HEADED = {column.key: replace(column, published=None, note="") for column in (*TABLE1, *TABLE2)}
Names = Callable[[Measurement], str | None]
"""The printed row that a measurement is named after."""


@dataclass(frozen=True)
class Part:
    """A part of a table: the rows that it takes of those that are left, a group for each heading.

    With a `title` it is one group: `printed` rows, and beside them the rows on the models that stand for a
    `model` of the paper; those that stand beside none of them follow, as far as they are taken.
    """

    takes: Callable[[Measurement], bool] = lambda m: True
    heading: Callable[[Measurement], str] = lambda m: f"On {m.model}"
    title: str = ""
    printed: tuple[PublishedRow, ...] = ()
    model: str = ""
    named: bool = True
    """Whether the title names the models of this study."""


OTHERS = (
    Part(lambda m: m.system, lambda m: "Other systems, asked by lmms-eval’s own adapters"),
    Part(
        lambda m: bool(m.against),
        lambda m: "Further models of this study, compared with another of its models",
    ),
)


def of_paper(study: Study) -> bool:
    """Whether some model of the study stands for one of the paper's; only beside those are printed rows."""
    return any(model.published for model in study.models)


def _columns(study: Study, printed: tuple[Column, ...], captions: bool) -> tuple[Column, ...]:
    """A table's columns: those of the paper's, and behind them the study's other benchmarks of that kind.

    Where no model is the paper's, none but the study's, with nothing beside them.
    """
    asked = [name for name in study.benchmarks if (BENCHMARKS[name].group == "caption") == captions]
    known = [column.benchmark for column in printed]
    if not of_paper(study):
        return tuple(column_of(name) for name in asked)
    return (*printed, *(column_of(name) for name in asked if name not in known))


def table1(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table I: visual question answering and short answers."""
    rows, stands_for = main(measurements), {model.name: model.published for model in study.models}
    apart = [m for m in rows if m.system or m.against]
    ideas = {title: m for m in reversed(apart) for title in stands_for.get(m.model, ())}

    def other(m: Measurement) -> str:
        names = " and ".join(stands_for.get(m.model, ()))
        place = f", in the place of {names}: not in the paper's Table I" if names else ""
        return f"On {m.model}{place}"

    def printed(group: str) -> Part:
        these = tuple(row for row in published.table1() if row.group == group and of_paper(study))
        last = group == published.TABLE1_GROUPS[-1]
        return Part(lambda m: last and not m.control, title=group, printed=these, model=model, named=False)

    model = published.TABLE1_MODEL
    parts: tuple[Part, ...] = (
        *map(printed, published.TABLE1_GROUPS),
        Part(lambda m: m.control and model in stands_for.get(m.model, ()), lambda m: "Controls"),
        *OTHERS,
        Part(heading=other),
    )
    title = "Visual question answering and short answers"
    columns = _columns(study, TABLE1, captions=False)
    table = Table("table1", "Table I", title, columns, notes={key: say(f"table1_{key}") for key in "abcd"})
    return laid_out(study, table, rows if columns else [], parts, named("table1"), ideas)


def table2(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table II: captioning, per model."""
    table = Table("table2", "Table II", "Captioning", _columns(study, TABLE2, captions=True))
    rows = main(measurements) if table.columns else []
    return laid_out(study, table, rows, _per_model(study, published.table2()), named("table2"))


def table3(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table III: what is spent for which NoCaps score, per model; its rows are those of Table II."""
    latencies = Latencies.of(study)
    texts: tuple[Column, ...] = (
        cost.flops("tflops_percent", "a"),
        Column("latency_ms", "Latency", "ms, ↓", "latency_ms", "b", latencies.per_token, latencies.why_not),
        Column("auto_rate", "Auto R", "is the rate predicted?", "auto_rate", here=_auto_rate),
    )
    notes = {"a": cost.note("nocaps", measurements), "b": latencies.note()}
    captions = _columns(study, TABLE2, captions=True)
    columns = tuple(column for column in captions if column.key == "nocaps")
    if not of_paper(study):
        texts = tuple(replace(text, published=None) for text in texts)
    table = Table("table3", "Table III", "Efficiency", columns, (), notes, texts)
    rows = [m for m in main(measurements) if not m.system and columns]
    return laid_out(study, table, rows, _per_model(study, published.table3()), named("table2"))


def _auto_rate(m: Measurement) -> str:
    return "yes" if m.predicts_rate else "no"


def _per_model(study: Study, printed_rows: Sequence[PublishedRow]) -> tuple[Part, ...]:
    """Table II's layout: printed rows per model, each with its measured one, and then the other models."""
    rows = printed_rows if of_paper(study) else ()
    models = dict.fromkeys(row.group for row in rows)
    printed = (
        Part(title=name, printed=tuple(row for row in rows if row.group == name), model=name)
        for name in models
    )
    return (*printed, *OTHERS, Part())


def main(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The rows of Tables I to III."""
    return [m for m in measurements if m.group == "main"]


def named(table: str) -> Names:
    """As the study's config names rows of a table."""
    return lambda m: m.job.method.published.get(table) if m.job else None


def laid_out(
    study: Study,
    table: Table,
    rows: Sequence[Measurement],
    parts: Sequence[Part],
    names: Names = lambda m: None,
    pairs: Mapping[str, Measurement] = MappingProxyType({}),
) -> Table:
    """The table with its rows; `pairs` has those that stand beside a printed row whatever their names, by its
    title.
    """
    stands_for = {model.name: model.published for model in study.models}
    beside: list[dict[str, Measurement]] = []
    for part in parts:
        # Of rows with one name the first; a row that this model does not have pairs with nothing.
        titles = {row.name: row.title for row in reversed(part.printed)}
        found = {title: m for title, m in pairs.items() if title in titles.values()}
        for m in rows:
            title = titles.get(names(m) or "")
            if title and part.model in stands_for.get(m.model, ()):
                found.setdefault(title, m)
        beside.append(found)
    left = [m for m in rows if all(m not in found.values() for found in beside)]
    groups: list[tuple[str, tuple[Row, ...]]] = []
    for part, found in zip(parts, beside, strict=True):
        taken = [m for m in left if part.takes(m)]
        if part.title:
            taken = [m for m in taken if part.model in stands_for.get(m.model, ())]
            shown = [*dict.fromkeys(m.model for m in rows if m in found.values() or m in taken)]
            same = [model.lower() for model in shown] == [part.title.lower()]
            more = f", beside it {' and '.join(shown)}" if part.named and shown and not same else ""
            groups.append((part.title + more, table.merged(part.printed, found, taken)))
        else:
            by_heading = grouped(taken, part.heading)
            groups += [(title, table.merged((), {}, members)) for title, members in by_heading.items()]
        left = [m for m in left if m not in taken]
    return table.filled(groups)


def columns_of(study: Study, rows: Iterable[Measurement], printed: Mapping[str, str]) -> tuple[Column, ...]:
    """The benchmarks that some row has, and those with a printed figure."""
    measured = {name for m in rows for name in m.result["benchmarks"] if name in BENCHMARKS}
    order = [*study.benchmarks, *(name for name in BENCHMARKS if name not in study.benchmarks)]
    return tuple(
        replace(column_of(name), published=printed.get(name), note="a" if name in printed else "")
        for name in order
        if name in measured or name in printed
    )


def heading(benchmark: str) -> str:
    """How the tables head a benchmark."""
    return column_of(benchmark).heading


def column_of(benchmark: str) -> Column:
    """A benchmark's column as Tables I and II head it, for tables that the paper does not have."""
    known = BENCHMARKS[benchmark]
    return _HEADED.get(benchmark) or Column(benchmark, known.title, known.primary.name)
