"""What DyRate's predictors learned, from their own records: the rate at each step, and how training went."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrate import files
from dyrate.analysis.measurement import Measurement
from dyrate.report.drawing import INK, MUTED, Picture, canvas, gridded, named
from dyrate.report.looks import Look, family

RECORD = "predictor.json"
STYLES = ("-", "--", "-.", ":")
PARTS = {"rate": ("task_loss", "retained_decode"), "ranking": ("ranking_loss",)}
TITLES = {
    "task_loss": "loss on the answers",
    "retained_decode": "visual tokens kept at decode, share",
    "ranking_loss": "loss of the ranking",
}


@dataclass(frozen=True)
class Learned:
    """The pictures of one model's predictors, and how each is drawn."""

    model: str
    legend: tuple[tuple[str, Look, str], ...]  # name, look, and whether dashed, as matplotlib writes it
    pictures: tuple[Picture, ...]


def learned(measurements: Sequence[Measurement], looks: Mapping[str, Look]) -> tuple[Learned, ...]:
    """A model's predictors of the main tables and the sweep, as far as their records hold anything."""
    found = []
    for model in dict.fromkeys(m.model for m in measurements):
        records: dict[str, tuple[Look, str, Mapping[str, Any]]] = {}
        for m in measurements:
            if m.model == model and m.group in ("main", "budget") and m.job and m.job.predictor:
                path = Path(m.job.predictor.folder) / RECORD
                if path.is_file() and m.job.predictor.name not in records:
                    same = sum(look == looks[family(m)] for look, _, _ in records.values())
                    style = STYLES[same % len(STYLES)]
                    records[m.job.predictor.name] = looks[family(m)], style, files.read_json(path)
        pictures = [svg for svg in _pictures(model, records) if svg]
        if pictures:
            legend = tuple((name, look, style) for name, (look, style, _) in records.items())
            found.append(Learned(model, legend, tuple(pictures)))
    return tuple(found)


def _pictures(
    model: str, records: Mapping[str, tuple[Look, str, Mapping[str, Any]]]
) -> Iterable[Picture | None]:
    def drawn(
        lines: Mapping[str, Sequence[tuple[float, float]]], title: str, across: str, key: str
    ) -> Picture | None:
        known = {label: points for label, points in lines.items() if len(points) > 1}
        if not known:
            return None
        with canvas(3.6, 2.6) as (figure, axes):
            for label, points in known.items():
                look, style, _ = records[label]
                axes.plot(*zip(*points, strict=True), style, color=look.colour, linewidth=1.3)
            axes.set_ylim(bottom=0)
            axes.set_title(title, color=INK)
            axes.set_xlabel(across)
            gridded(axes)
            axes.tick_params(labelcolor=MUTED)
            ends = "; ".join(
                f"{label}: {first:.2f} at {start:.0f}, {last:.2f} at {end:.0f}"
                for label, points in known.items()
                for (start, first), (end, last) in [(points[0], points[-1])]
            )
            return Picture(
                figure,
                named("predictors", model, key),
                f"{title}, {model}",
                ("predictor", across, title),
                [(label, *point) for label, points in known.items() for point in points],
                ends,
            )

    schedules = {
        label: [(step, 100 * rate) for step, rate in enumerate(record.get("schedule") or ())]
        for label, (_, _, record) in records.items()
    }
    yield drawn(schedules, "rate, % of visual tokens removed", "step of the answer", "rate")
    for part, values in PARTS.items():
        for value in values:
            curves = {
                label: [
                    (point["step"], point[value])
                    for point in record.get("curve") or ()
                    if point.get("part") == part and value in point
                ]
                for label, (_, _, record) in records.items()
            }
            yield drawn(curves, TITLES[value], "step of training", value)
