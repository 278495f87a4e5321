"""All that a study measured or the paper printed, as one tidy frame (pandas).

A row per model, method, decoding, benchmark and metric; `measurements.csv` is the frame itself.

Budget, FLOPs and times are of the run on the benchmark, and stand in each of its metrics' rows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.cost import percentages, spent
from dyrate.analysis.latency import Latencies
from dyrate.analysis.measurement import Measurement
from dyrate.analysis.tables import TABLE1, TABLE2, of_paper
from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.imports import built_in
from dyrate.paper import published
from dyrate.paper.published import PublishedRow
from dyrate.study import Study

PUBLISHED = "published"
COSTS = tuple((convention, scope) for convention in CONVENTIONS for scope in SCOPES)
_TEXT, _COUNT, _NUMBER, _YES = "string", "Int64", "Float64", "boolean"
FIELDS: Mapping[str, str] = {
    "model": _TEXT,
    "against": _TEXT,  # the model whose unpruned answers are subtracted
    "name": _TEXT,  # of the method, as `dyrate methods` lists it
    "method": _TEXT,  # with its hyperparameters
    "title": _TEXT,  # what tables call the row: the method, or the model that is measured against another
    "decoding": _TEXT,
    "benchmark": _TEXT,
    "task": _TEXT,
    "metric": _TEXT,
    "primary": _YES,  # whether the tables show this metric
    "unit": _TEXT,
    "samples": _COUNT,
    "units": _COUNT,  # what the interval resamples: samples, pairs, circular questions
    "value": _NUMBER,
    "printed": _TEXT,  # the value as the paper has it, with its zeros
    "low": _NUMBER,
    "high": _NUMBER,
    "difference": _NUMBER,  # to the unpruned model, paired
    "difference_low": _NUMBER,
    "difference_high": _NUMBER,
    "verdict": _TEXT,  # of that: better, worse, or open where its interval has zero
    "prefill_share": _NUMBER,  # visual tokens that a layer sees, true mean over layers, as a share of V
    "decode_share": _NUMBER,
    "text_tokens": _NUMBER,  # t and N: mean tokens of prompt (the visual ones apart) and answer
    "new_tokens": _NUMBER,
    **{f"{convention}_{scope}_tera": _NUMBER for convention, scope in COSTS},
    **{f"{convention}_{scope}_percent": _NUMBER for convention, scope in COSTS},  # of the unpruned model's
    "latency_ms": _NUMBER,  # per token, end to end, where the study times it
    "kv_bytes": _COUNT,
    "origin": _TEXT,  # paper, ours, control, published; empty of a producer's that does not say
    "group": _TEXT,  # the tables that it belongs to; of a printed figure the table itself
    "result": _TEXT,
    "missing": _TEXT,  # why there is no value where there should be one
}
KEY = ("model", "method", "decoding", "benchmark", "metric")
_TABLES = {
    "table1": published.table1,
    "table2": published.table2,
    "table3": published.table3,
    "ablation_strategy": published.strategy,
    "ablation_decoding": published.decoding,
}
# Of a column of the published files benchmark, metric, unit, and whether it is the benchmark's main metric.
_PRINTED = {
    column.published: (column.key, main.name, main.unit, True)
    for column in (*TABLE1, *TABLE2)
    for main in [BENCHMARKS[column.key].primary]
    if column.published
} | {
    "tflops_percent": ("nocaps", "tflops_percent", "percent of unpruned", False),
    "flops_percent": ("nocaps", "flops_percent", "percent of unpruned", False),
    "latency_ms": ("nocaps", "latency_ms", "ms", False),
}


def frame(study: Study, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """The frame, in the order of the study's results; the paper's printed figures follow, where a model is
    the paper's.

    `measurements` must have been compared with the unpruned model (`dyrate.analysis.paired.Answers.compare`).
    """
    latencies = Latencies.of(study)
    lines = [line for m in measurements for line in _measured(m, latencies)]
    lines += [
        line
        for table, rows in (_TABLES.items() if of_paper(study) else ())
        for row in rows()
        for line in _printed(table, row)
    ]
    return pd.DataFrame(lines, columns=[*FIELDS], dtype=object).astype(dict(FIELDS))


def counted(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs of which it is known what their layers did: a line for each with what it spent."""
    return lines(frame[frame["primary"].fillna(False) & frame["text_tokens"].notna()])


def costs(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """What each run spent, a line per convention and scope: the frame's FLOPs, one below the other."""
    kept = ("model", "method", "decoding", "benchmark", "result")
    for line in counted(frame):
        for convention, scope in COSTS:
            yield {name: line[name] for name in kept} | {
                "convention": convention,
                "scope": scope,
                "text_tokens": round(line["text_tokens"], 2),
                "new_tokens": round(line["new_tokens"], 2),
                "tera": line[f"{convention}_{scope}_tera"],
                "percent": line[f"{convention}_{scope}_percent"],
            }


def lines(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows as plain values, None where there is nothing."""
    plain = frame.astype(object)
    records = plain.where(plain.notna(), None).to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def origin(m: Measurement) -> str | None:
    """Whose row it is; None of a method that is neither built in nor says so."""
    if m.control or m.replays:
        return "control"
    if m.compressor is not None:
        return "ours"  # trained here: not the published system whose idea it is
    if m.method == DYRATE or m.job is None:
        return m.origin
    return m.origin or ("paper" if m.method in built_in() else None)


def _measured(m: Measurement, latencies: Latencies) -> Iterator[dict[str, object]]:
    named = {
        "model": m.model,
        "against": m.reference,
        "name": m.method,
        "method": m.label,
        "title": m.title,
        "decoding": m.decoding,
        "origin": origin(m),
        "group": m.group,
        "result": m.files.result.as_posix(),
    }
    for benchmark, why in m.missing.items():
        main = BENCHMARKS[benchmark].primary
        missing = {"metric": main.name, "primary": True, "unit": main.unit, "missing": why}
        yield {**named, "benchmark": benchmark, **missing}
    for benchmark, found in m.result["benchmarks"].items():
        of_run = {**named, "benchmark": benchmark, "task": found["task"], **_spent(m, benchmark)}
        for metric in found["scores"]:
            score = vars(m.score(benchmark, metric))
            yield of_run | latencies.costs(m, benchmark) | {"primary": metric == found["primary"]} | score


def _spent(m: Measurement, benchmark: str) -> dict[str, object]:
    shares = m.budget(benchmark)
    found: dict[str, object] = {"prefill_share": shares.prefill, "decode_share": shares.decode}
    if mine := spent(m, benchmark):
        found |= {"text_tokens": mine.text_tokens, "new_tokens": mine.new_tokens}
        for kind, values in (("tera", mine.flops), ("percent", percentages(mine))):
            found |= {f"{convention}_{scope}_{kind}": value for (convention, scope), value in values.items()}
    return found


def _printed(table: str, row: PublishedRow) -> Iterator[dict[str, object]]:
    """The figures of a printed row. Of Table I only the last group's rows are methods, on the same model."""
    method = table != "table1" or row.group == published.TABLE1_GROUPS[-1]
    model = row.group or "not named"
    if table == "table1":
        model = published.TABLE1_MODEL if method else row.title
    known = re.split(r"\W", row.name)[0].lower()
    named = {
        "model": model,
        "name": known if known in built_in() else None,
        "method": row.name,
        "title": row.title,
        "origin": PUBLISHED,
        "group": table,
    }
    for column, (benchmark, metric, unit, primary) in _PRINTED.items():
        if text := row.values.get(column):
            figure = {
                "metric": metric,
                "unit": unit,
                "primary": primary,
                "value": float(text),
                "printed": text,
            }
            yield {**named, "benchmark": benchmark, **figure}
