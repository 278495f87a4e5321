"""The contract table: every registered method in several configurations, each with its rule in plain
Python.

A method registered without a line here enters with its defaults and is compared with a masked run over
the tokens that it says it kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dyrate.methods.stepwise import StepwisePruning
from dyrate.reduction import ReductionMethod
from dyrate.registry import load_method, references
from tests.runtime.probes import (
    DecodeRule,
    EvictSome,
    MergeIntoFirst,
    MergeRule,
    PairMeans,
    Pyramid,
    PyramidRule,
    SelectSome,
    best,
)
from tests.runtime.reference import Rule
from tests.runtime.stepwise_rules import rule_of
from tests.runtime.tiny_predictors import always_zero, tiny_predictor


class FastVRule(Rule):
    def __init__(self, layer: int, rate: float):
        self.layers, self.rate = (layer,), rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return best(scores, held, round(visual * (1 - self.rate)))


class NothingRule(Rule):
    def __init__(self, layer: int, contiguous: bool):
        self.layers, self.contiguous = (layer,), contiguous

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return []


class UniformRule(Rule):
    def __init__(self, layer: int, rate: float):
        self.layers, self.rate = (layer,), rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        count = round(visual * (1 - self.rate))
        return [-(-i * visual // count) for i in range(count)]


class ReportedRule(Rule):
    """Whatever the run says it kept."""

    def __init__(self, kept: dict[int, list[int]], contiguous: bool):
        self.kept, self.contiguous = kept, contiguous
        self.layers = tuple(layer for layer in kept if layer == 0 or kept[layer] != kept[layer - 1])

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return self.kept[layer]


@dataclass(frozen=True)
class Case:
    method: ReductionMethod
    rule: Callable[[int, dict[int, list[int]]], Rule]
    """(prompt tokens from the image on, visual indices kept by layer) -> the rule of one row."""


def _case(spec: dict[str, Any], rule: Rule | None = None) -> Case:
    method = load_method(spec)
    if rule is not None:
        return Case(method, lambda length, kept: rule)
    if isinstance(method, StepwisePruning):
        return Case(method, lambda length, kept: rule_of(method))
    contiguous = method.position_policy == "contiguous"
    return Case(method, lambda length, kept: ReportedRule(kept, contiguous))


DYRATE: list[dict[str, Any]] = [
    {"predictor": tiny_predictor("linear", kind="linear")},
    {"predictor": tiny_predictor("mlp", seed=1), "mode": "evict", "prune_prefill": False},
    {
        "predictor": tiny_predictor("mlp-late", seed=2, layer=3),
        "layer": 3,
        "monotone": True,
        "prune_prefill": False,
    },
    {"predictor": tiny_predictor("window", kind="window", per_head=True), "prune_prefill": False},
    {"predictor": tiny_predictor("gru", kind="gru"), "mode": "evict", "minimum": 0.2, "evict_at_least": 3},
    {"predictor": tiny_predictor("gru-heads", kind="gru", per_head=True), "mode": "none"},
    {"predictor": tiny_predictor("ranked", ranking="linear", layer=1), "layer": 1},
    {
        "predictor": tiny_predictor("ranked-mlp", kind="window", history=2, ranking="mlp"),
        "mode": "evict",
        "prune_prefill": False,
    },
    {"predictor": tiny_predictor("lagged", lagged=(2, 3)), "prune_prefill": False},
    {
        "predictor": tiny_predictor("lagged-first", seed=2, lagged=(2, 3), ranking="linear"),
        "prune_prefill": False,
        "monotone": True,
    },
    {
        "predictor": tiny_predictor("lagged-last", kind="gru", lagged=(3, 5), ranking="mlp"),
        "prune_prefill": False,
    },
    {"predictor": tiny_predictor("scheduled"), "rates": "schedule", "mode": "evict", "prune_prefill": False},
]

_LINES = [
    _case({"name": "none"}, Rule()),
    _case({"name": "fastv", "layer": 1, "rate": 0.75}, FastVRule(1, 0.75)),
    _case({"name": "fastv", "layer": 2, "rate": 0.5}, FastVRule(2, 0.5)),
    _case({"name": "fastv", "layer": 5, "rate": 1.0}, FastVRule(5, 1.0)),
    _case({"name": "vtw", "layer": 3}, NothingRule(3, contiguous=False)),
    _case({"name": "vtw", "layer": 3, "positions": "contiguous"}, NothingRule(3, contiguous=True)),
    _case({"name": "random", "layer": 2, "rate": 0.6, "seed": 1}),
    _case({"name": "random", "layer": 0, "rate": 0.3}),
    _case({"name": "uniform", "layer": 0, "rate": 0.7}, UniformRule(0, 0.7)),
    _case({"name": "uniform", "layer": 3, "rate": 0.4}, UniformRule(3, 0.4)),
    _case({"name": "text_only"}, NothingRule(0, contiguous=True)),
    _case({"name": "text_only", "positions": "original"}, NothingRule(0, contiguous=False)),
    _case({"name": "downsample", "rate": 0.4}, Rule()),
    _case({"name": "downsample", "rate": 0.0}, Rule()),
    _case({"name": "fixed_prune"}),
    _case({"name": "fixed_prune", "layer": 2, "rate": 0.6, "mode": "evict", "prune_prefill": False}),
    _case({"name": "fixed_prune", "layer": 1, "rate": 0.8, "minimum": 0.3, "prune_prefill": False}),
    _case({"name": "depth_prune", "layer": 3, "rate": 0.4, "correction": 0.3}),
    _case({"name": "depth_prune", "rate": 0.7, "correction": -0.2, "prune_prefill": False}),
    _case({"name": "replay", "rates": [0.25, 0.5, 0.75, 0.4]}),
    _case({"name": "replay", "rates": [0.25, 0.5, 0.4], "layer": 3, "mode": "evict", "prune_prefill": False}),
    *(_case({"name": "dyrate", **spec}) for spec in DYRATE),
]
_LISTED = {case.method.name for case in _LINES}

CASES = _LINES + [_case({"name": name}) for name in references() if name not in _LISTED]

PROBES = [
    Case(method, lambda length, kept, method=method: DecodeRule(method, length))
    for method in (
        EvictSome(),
        EvictSome(layers=(2, 4)),
        EvictSome(positions="contiguous"),
        SelectSome(),
        SelectSome(layers=(1, 3)),
        SelectSome(layers=(2, 4), positions="contiguous"),
    )
] + [
    Case(Pyramid(), lambda length, kept: PyramidRule()),
    Case(MergeIntoFirst(), lambda length, kept: MergeRule()),
    Case(PairMeans(), lambda length, kept: Rule()),
]

KEEP_EVERYTHING = [
    load_method(spec)
    for spec in (
        {"name": "none"},
        {"name": "fastv", "layer": 2, "rate": 0.0},
        {"name": "random", "layer": 0, "rate": 0.0},
        {"name": "uniform", "layer": 1, "rate": 0.0},
        {"name": "downsample", "rate": 0.0},
        {"name": "fixed_prune", "rate": 0.0, "mode": "evict"},
        {"name": "depth_prune", "rate": 0.0},
        {"name": "replay", "rates": [0.0]},
        {"name": "dyrate", "predictor": always_zero("zero")},
        {"name": "dyrate", "predictor": always_zero("zero-gru", kind="gru", lagged=(4,), ranking="mlp")},
        {"name": "dyrate", "predictor": always_zero("zero-window", kind="window"), "mode": "evict"},
    )
]
