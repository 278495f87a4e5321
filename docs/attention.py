"""Draw the figure of concepts.md: `python docs/attention.py TRACE.json ... FIGURE.svg`, of `dyrate trace`."""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

*summaries, drawing = map(Path, sys.argv[1:])
traces = [json.loads(path.read_text("utf-8")) for path in summaries]
mpl.rcParams.update({"svg.hashsalt": "dyrate", "svg.fonttype": "none", "font.family": "sans-serif"})
figure = Figure(figsize=(3.6 * len(traces), 3), layout="constrained")
for trace, axes in zip(traces, figure.subplots(1, len(traces), sharey=True, squeeze=False)[0], strict=True):
    traced = trace["benchmarks"]["nocaps"]
    # Steps that at least half of the answers have: later ones speak of the longest answers only.
    steps = range(sum(2 * count >= traced["samples"] for count in traced["curve"]["samples"]))
    lines = ("img", "image", "#0050a0", "-"), ("res", "answer so far", "#a05000", "--")
    for key, label, colour, line in lines:
        curve = traced["curve"][key]
        mean, low, high = (
            [float("nan") if curve[part][step] is None else 100 * curve[part][step] for step in steps]
            for part in ("mean", "low", "high")
        )
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, mean, line, color=colour, label=label)
    axes.set(title=f"{trace['model']}, n = {traced['samples']}", xlabel="step of the answer", ylim=(0, 100))
    axes.grid(alpha=0.3)
figure.axes[0].set_ylabel("attention, % of the step's total")
figure.axes[0].legend()
figure.savefig(drawing, metadata={"Date": None})
