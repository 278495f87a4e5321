"""Two looks inside a number: the layers behind a budget, and the categories behind a score."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.patches import Rectangle

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.tables import heading
from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report.drawing import LINE, MUTED, PAPER, Picture, canvas, named
from dyrate.report.gallery import RIGHT
from dyrate.report.looks import Look, family

ROWS = 24  # of a picture: more are in the CSV
LONGEST = 44  # characters of a row's title


def layers(
    model: str,
    measurements: Sequence[Measurement],
    benchmarks: Sequence[str],
    phase: str,
    looks: Mapping[str, Look],
) -> Picture | None:
    """The share of the visual tokens that each layer sees, a line per row of the tables: darker is more.

    `phase` is "prefill" or "decode", means over the benchmarks; None where nobody counted.
    """
    rows = []
    for m in (m for m in measurements if m.reference == model and m.kind != NONE):
        shares = [found for one in benchmarks if (found := _by_layer(m, one, phase))]
        if shares and len({len(share) for share in shares}) == 1:
            rows.append((m, [fmean(layer) for layer in zip(*shares, strict=True)]))
    depth = max((len(row) for _, row in rows), default=0)
    rows = [(m, row) for m, row in rows if len(row) == depth]
    if not rows:
        return None
    shown = rows[:ROWS]
    with canvas(4.6, 0.7 + 0.2 * len(shown)) as (figure, axes):
        for y, (m, row) in enumerate(shown):
            for x, share in enumerate(row):
                axes.add_patch(
                    Rectangle(
                        (x - 0.5, y - 0.42),
                        1,
                        0.84,
                        facecolor=looks[family(m)].colour,
                        alpha=round(min(share, 1.0), 2),
                        linewidth=0,
                        antialiased=False,
                    )
                )
        axes.set_xlim(-0.5, depth - 0.5)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        names = [textwrap.shorten(m.title, LONGEST) for m, _ in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=8)
        axes.set_xticks(range(0, depth, max(1, depth // 8)))
        axes.set_xlabel("layer")
        return Picture(
            figure,
            named("layers", phase, model),
            f"Visual tokens that each layer sees at {phase}, {model}",
            ("method", *(f"layer {layer}, % of V" for layer in range(depth))),
            [(m.title, *(100 * share for share in row)) for m, row in rows],
        )


def _by_layer(m: Measurement, name: str, phase: str) -> list[float] | None:
    mine, whole = m.benchmark(name), m.unpruned
    theirs = whole.benchmark(name) if whole else None
    tokens, total = mine and mine["visual_tokens"], theirs and theirs["visual_tokens"]
    if not tokens or not total or not total["total"]:
        return None
    kept = tokens["prefill"] if phase == "prefill" else tokens["decode"]
    return [count / total["total"] for count in kept] if kept else None


def categories(
    model: str,
    measurements: Sequence[Measurement],
    benchmark: str,
    looks: Mapping[str, Look],
) -> Picture | None:
    """Right answers by category, in percent: a mark for each row of the tables, a bar for the unpruned model.

    None where the data name no two categories, or nothing left its answers.
    """
    if BENCHMARKS[benchmark].category is None:
        return None
    found = {
        m: _by_category(m, benchmark)
        for m in measurements
        if m.reference == model and m.benchmark(benchmark) and m.files.answers.exists()
    }
    counts = {category: len(units) for rights in found.values() for category, units in rights.items()}
    if len(counts) < 2:
        return None
    order = sorted(counts)
    rows: list[tuple[str, str, str, float]] = []
    with canvas(4.6, 0.7 + 0.26 * len(order)) as (figure, axes):
        for m, rights in found.items():
            look = looks[family(m)]
            for category, units in sorted(rights.items()):
                y, share = order.index(category), 100 * fmean(units)
                rows.append((m.title, category, str(len(units)), share))
                if m.kind == NONE and m.model == model:
                    axes.barh(y, share, height=0.62, color=LINE, zorder=0)
                elif m.kind != NONE:
                    axes.plot(
                        share,
                        y,
                        look.shape,
                        color=look.colour,
                        markerfacecolor=PAPER,
                        markersize=5,
                        alpha=0.9,
                    )
        names = [f"{textwrap.shorten(name, LONGEST)} ({counts[name]})" for name in order]
        axes.set_yticks(range(len(order)), names, fontsize=8)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, 104)
        axes.set_title(f"{heading(benchmark)}: right, % (questions)", color=MUTED)
    return Picture(
        figure,
        named("categories", benchmark, model),
        f"{heading(benchmark)} by category, {model}",
        ("method", "category", "questions", "right, %"),
        rows,
    )


def _by_category(m: Measurement, benchmark: str) -> dict[str, list[float]]:
    """By category, how right each question was; of one in several rotations, whether all were."""
    rotated = BENCHMARKS[benchmark].kind == "circular"
    rights: dict[str, dict[str, list[float]]] = {}
    for sample in answers.read(m.files.answers, m.result).get(benchmark, ()):
        right = next((sample.scores[key] for key in RIGHT if key in sample.scores), None)
        category = sample.category or sample.stratum
        if right is not None and category:
            unit = sample.unit if rotated else str(sample.doc_id)
            rights.setdefault(category, {}).setdefault(unit, []).append(right)
    return {category: [min(found) for found in units.values()] for category, units in rights.items()}
