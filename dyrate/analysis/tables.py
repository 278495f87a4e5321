"""Tables I to III as data: published rows and measured ones laid out as in the paper."""

from collections.abc import Iterable, Sequence

from dyrate.analysis import cost
from dyrate.analysis.cells import Column, Row, Table, TextColumn, finish, merge, with_texts
from dyrate.analysis.latency import Latencies
from dyrate.analysis.measurements import Measurement
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
TABLE3 = (Column("nocaps", "NoCaps", "CIDEr", "nocaps_cider"),)
TABLE3_TEXTS = (
    TextColumn("tflops_percent", "FLOPs", "% of unpruned, ↓", "tflops_percent", "a"),
    TextColumn("latency_ms", "Latency", "ms, ↓", "latency_ms", "b"),
    TextColumn("auto_rate", "Auto R", "is the rate predicted?", "auto_rate"),
)
TABLE1_NOTES = {
    "a": "The paper heads VizWiz and VQA 'EM'; what lmms-eval measures, here too, is VQA accuracy: "
    "agreement with ten annotators.",
    "b": "The paper calls this column VQA, but the 58.2 it prints for LLaVA v1.5 is that model's TextVQA "
    "score (its VQAv2 score is about 78). Published figures stay where the paper prints them. Measured are "
    "both: VQAv2 under VQA, and TextVQA.",
    "c": "Circular evaluation: a question counts only if every rotation of its options is answered rightly.",
    "d": "The paper heads MME 'accuracy' and prints scores; its 1510.7 for LLaVA v1.5 is that model's "
    "perception score. Measured is perception plus cognition, over the categories that the data has.",
}

_FURTHER = "Further models of this study, compared with another of its models"
_SYSTEMS = "Other systems, asked by lmms-eval’s own adapters"


def heading(benchmark: str) -> str:
    """How the tables head a benchmark."""
    return column_of(benchmark).heading


def column_of(benchmark: str) -> Column:
    """A benchmark's column as Tables I and II head it, for tables that the paper does not have."""
    for column in (*TABLE1, *TABLE2):
        if column.benchmark == benchmark:
            return Column(benchmark, column.heading, column.metric, None)
    known = BENCHMARKS[benchmark]
    return Column(benchmark, known.title, known.primary.name, None)


def table1(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table I: visual question answering and short answers."""
    main = [m for m in measurements if m.group == "main"]
    mine = standing_for(study, published.TABLE1_MODEL, main)
    systems = [m for m in main if m.system]
    ideas = [m for m in main if m.against]
    others = [*systems, *ideas]
    beside = {row.title: m for row in published.table1() for m in standing_for(study, row.title, others)[:1]}
    pairs = paired_rows(study, "table1", mine, published.table1()) | beside
    unpaired = [m for m in mine if m not in pairs.values()]
    groups: list[tuple[str, Sequence[Row]]] = []
    for title in published.TABLE1_GROUPS:
        printed = [row for row in published.table1() if row.group == title]
        extra = [m for m in unpaired if not m.control] if title == published.TABLE1_GROUPS[-1] else []
        groups.append((title, merge(TABLE1, printed, pairs, extra, measurements)))
    controls = [m for m in unpaired if m.control]
    groups.append(("Controls", merge(TABLE1, [], {}, controls, measurements)))
    stands_for = {model.name: " and ".join(model.published) for model in study.models}
    groups.append((_SYSTEMS, merge(TABLE1, [], {}, [m for m in systems if m not in beside.values()], main)))
    further = [m for m in ideas if m not in beside.values()]
    groups.append((_FURTHER, merge(TABLE1, [], {}, further, measurements)))
    for name, others in by_model(main, except_for=[*mine, *systems, *ideas]):
        place = (
            f", in the place of {stands_for[name]}: not in the paper's Table I"
            if stands_for.get(name)
            else ""
        )
        groups.append((f"On {name}{place}", merge(TABLE1, [], {}, others, measurements)))
    title = "Visual question answering and short answers"
    return finish(Table("table1", "Table I", title, TABLE1, _frozen(groups), TABLE1_NOTES))


def table2(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table II: captioning, per model."""
    groups = _groups_per_model(study, measurements, TABLE2, published.table2())
    return finish(Table("table2", "Table II", "Captioning", TABLE2, groups, {}))


def table3(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table III: what is spent for which NoCaps score, per model; its rows are those of Table II."""
    latencies, ours = Latencies.of(study), [m for m in measurements if not m.system]
    groups = tuple(
        (
            title,
            tuple(
                with_texts(
                    row,
                    TABLE3_TEXTS,
                    {
                        **_auto_rate(row.measurement),
                        "tflops_percent": cost.percent(row.measurement, "nocaps", measurements),
                        "latency_ms": latencies.per_token(row.measurement),
                    },
                    {
                        "tflops_percent": row.why_not("nocaps"),
                        "latency_ms": latencies.why_not(row.measurement),
                    },
                )
                for row in rows
            ),
        )
        for title, rows in _groups_per_model(study, ours, TABLE3, published.table3())
    )
    notes = {"a": cost.note("nocaps", measurements), "b": latencies.note()}
    return finish(Table("table3", "Table III", "Efficiency", TABLE3, groups, notes, TABLE3_TEXTS))


def _auto_rate(m: Measurement | None) -> dict[str, str | None]:
    return {"auto_rate": ("yes" if m.predicts_rate else "no") if m else None}


def _groups_per_model(
    study: Study,
    measurements: Sequence[Measurement],
    columns: Sequence[Column],
    rows: Sequence[PublishedRow],
) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    """Table II's layout: printed rows per model, each with its measured one, and then the other models."""
    main = [m for m in measurements if m.group == "main"]
    groups: list[tuple[str, Sequence[Row]]] = []
    placed: list[Measurement] = []
    for model in dict.fromkeys(row.group for row in rows):
        mine = standing_for(study, model, main)
        printed = [row for row in rows if row.group == model]
        pairs = paired_rows(study, "table2", mine, printed)
        extra = [m for m in mine if m not in pairs.values()]
        names = [name for name, _ in by_model(mine)]
        title = (
            f"{model}, beside it {' and '.join(names)}"
            if names and [name.lower() for name in names] != [model.lower()]
            else model
        )
        groups.append((title, merge(columns, printed, pairs, extra, measurements)))
        placed += mine
    systems, ideas = [m for m in main if m.system], [m for m in main if m.against]
    groups.append((_SYSTEMS, merge(columns, [], {}, systems, measurements)))
    groups.append((_FURTHER, merge(columns, [], {}, ideas, measurements)))
    for name, others in by_model(main, except_for=[*placed, *systems, *ideas]):
        groups.append((f"On {name}", merge(columns, [], {}, others, measurements)))
    return _frozen(groups)


def _frozen(groups: Iterable[tuple[str, Sequence[Row]]]) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    return tuple((title, tuple(rows)) for title, rows in groups)


def standing_for(study: Study, model: str, measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements on the models that stand beside a model of the paper."""
    names = [entry.name for entry in study.models if model in entry.published]
    return [m for m in measurements if m.model in names]


def by_model(
    measurements: Iterable[Measurement], except_for: Sequence[Measurement] = ()
) -> list[tuple[str, list[Measurement]]]:
    """The measurements of each model, models in the order of their first."""
    models: dict[str, list[Measurement]] = {}
    for m in measurements:
        if m not in except_for:
            models.setdefault(m.model, []).append(m)
    return list(models.items())


def paired_rows(
    study: Study, table: str, mine: Sequence[Measurement], printed: Iterable[PublishedRow]
) -> dict[str, Measurement]:
    """By a printed row's title, the measurement beside it: of the study's first job that names the row."""
    rows = {
        row.name: row.title for row in reversed([*printed])
    }  # a row that this model does not have pairs with nothing
    by_path = {m.job.result if m.job else m.files.result.as_posix(): m for m in mine}
    pairs: dict[str, Measurement] = {}
    for job in study.jobs:
        row = job.method.published.get(table)
        if row in rows and job.result in by_path:
            pairs.setdefault(rows[row], by_path[job.result])
    return pairs
