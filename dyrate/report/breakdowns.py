"""Two looks inside a number: the layers behind a budget, and the categories behind a score."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

from markupsafe import Markup
from matplotlib.patches import Rectangle

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.tables import heading
from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report.drawing import LINE, MODELS, MUTED, PAPER, as_svg, canvas, described
from dyrate.report.gallery import RIGHT
from dyrate.report.looks import Look, family

ROWS = 24  # of a picture: more are in the CSV
LONGEST = 44  # characters of a row's title


def layers(
    model: str, measurements: Sequence[Measurement], benchmarks: Sequence[str], phase: str, name: str
) -> Markup | None:
    """The share of the visual tokens that each layer sees, a line per row of the tables: darker is more.

    `phase` is "prefill" or "decode", means over the benchmarks; None where nobody counted.
    """
    rows = []
    for m in (m for m in measurements if m.reference == model and m.kind != NONE):
        shares = [found for one in benchmarks if (found := _by_layer(m, one, phase))]
        if shares and len({len(share) for share in shares}) == 1:
            rows.append(
                (textwrap.shorten(m.title, LONGEST), [fmean(layer) for layer in zip(*shares, strict=True)])
            )
    depth = max((len(row) for _, row in rows), default=0)
    rows = [(title, row) for title, row in rows if len(row) == depth][:ROWS]
    if not rows:
        return None
    with canvas(4.6, 0.7 + 0.2 * len(rows)) as (figure, axes):
        for y, (_, row) in enumerate(rows):
            for x, share in enumerate(row):
                axes.add_patch(
                    Rectangle(
                        (x - 0.5, y - 0.42),
                        1,
                        0.84,
                        facecolor=MODELS[0],
                        alpha=round(min(share, 1.0), 2),
                        linewidth=0,
                        antialiased=False,
                    )
                )
        axes.set_xlim(-0.5, depth - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [title for title, _ in rows], fontsize=8)
        axes.set_xticks(range(0, depth, max(1, depth // 8)))
        axes.set_xlabel("layer")
        told = "; ".join(f"{title}: " + ", ".join(f"{100 * s:.0f}%" for s in row) for title, row in rows)
        return described(
            as_svg(figure, name), f"Visual tokens that each layer sees at {phase}, {model}", told
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
    name: str,
) -> Markup | None:
    """Right answers by category, in percent: a mark for each row of the tables, a bar for the unpruned model.

    None where the benchmark has no categories, or nothing left its answers.
    """
    if BENCHMARKS[benchmark].stratum is None:
        return None
    found = {
        m: _by_category(m, benchmark)
        for m in measurements
        if m.reference == model and m.benchmark(benchmark) and m.files.answers.exists()
    }
    order = list(dict.fromkeys(category for shares in found.values() for category in shares))
    if len(order) < 2:
        return None
    with canvas(4.6, 0.7 + 0.26 * len(order)) as (figure, axes):
        for m, shares in found.items():
            look = looks[family(m)]
            for category, share in shares.items():
                y = order.index(category)
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
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, 104)
        axes.set_title(f"{heading(benchmark)}: right answers by category, %", color=MUTED)
        told = "; ".join(
            f"{m.title}: " + ", ".join(f"{category} {share:.0f}%" for category, share in shares.items())
            for m, shares in found.items()
        )
        return described(as_svg(figure, name), f"{heading(benchmark)} by category, {model}", told)


def _by_category(m: Measurement, benchmark: str) -> dict[str, float]:
    rights: dict[str, list[float]] = {}
    for sample in answers.read(m.files.answers, m.result).get(benchmark, ()):
        right = next((sample.scores[key] for key in RIGHT if key in sample.scores), None)
        if right is not None and sample.stratum:
            rights.setdefault(sample.stratum, []).append(100 * right)
    return {category: fmean(values) for category, values in sorted(rights.items())}
