"""The contract table: every registered method under its `examples`, each with its rule in plain Python.

A method without a rule here is compared with a masked run over the tokens that it says it kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyrate.methods.stepwise_pruning import StepwisePruning
from dyrate.reduction import ReductionMethod
from dyrate.registry import class_of, load_method, references
from tests.runtime import decode_time_rules, merging_rules, question_rules, tower_rules
from tests.runtime import example_rules as rules
from tests.runtime import prefill_rules as prompt
from tests.runtime.probes import (
    DecodeRule,
    EvictSome,
    MergeIntoFirst,
    MergeRule,
    Pyramid,
    PyramidRule,
    SelectSome,
    best,
)
from tests.runtime.reference import Rule
from tests.runtime.stepwise_rules import rule_of
from tests.runtime.tiny_predictors import always_zero, tiny_predictor
from tests.tiny import IMAGE

EXAMPLES = Path(__file__).parents[2] / "examples/methods"


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


class RandomRule(Rule):
    """Numbers drawn by a seed that is made of the row's own tokens and pixels; the highest ones stay."""

    def __init__(self, layer: int, rate: float, seed: int):
        self.layers, self.rate, self.seed = (layer,), rate, seed

    def features(self, model: Any, pixels: Tensor) -> None:
        self.pixels = pixels

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        text = b"".join(token.to_bytes(8, "little") for token in self.prompt)
        digest = sha256(str(self.seed).encode() + text + self.pixels.numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") // 2)
        draws = torch.rand(visual, generator=generator, dtype=torch.float64).tolist()
        return best(draws, held, round(visual * (1 - self.rate)))


class CentreRule(Rule):
    def __init__(self, layer: int, rate: float):
        self.layers, self.rate = (layer,), rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        near = [-((i % 16 // 4 - 1.5) ** 2) - (i % 4 - 1.5) ** 2 for i in range(visual)]
        return best(near, held, round(visual * (1 - self.rate)))


@dataclass(frozen=True)
class Case:
    method: ReductionMethod
    rule: Callable[[int, dict[int, list[int]]], Rule]
    """(prompt tokens from the image on, visual indices kept by layer) -> a new rule for one row."""
    compression_tokens: tuple[int, ...] = ()
    """They stand in the prompts behind each image."""


RULES: dict[str, Callable[[Any], Rule]] = {
    "none": lambda method: Rule(),
    "fastv": lambda method: (
        prompt.ReceivedRule(method.layer, method.rate)
        if method.queries == "all"
        else FastVRule(method.layer, method.rate)
    ),
    "pyramiddrop": lambda method: prompt.PyramidDropRule(
        method.layers, method.ratios, method.positions == "contiguous"
    ),
    "divprune": lambda method: prompt.DivPruneRule(
        method.layer, method.rate, method.positions == "contiguous"
    ),
    "dart": lambda method: prompt.DARTRule(
        method.layer, method.rate, method.visual_pivots, method.instruction_pivots
    ),
    "sparsevlm": lambda method: prompt.SparseVLMRule(method),
    "vtw": lambda method: NothingRule(method.layer, method.positions == "contiguous"),
    "random": lambda method: RandomRule(method.layer, method.rate, method.seed),
    "uniform": lambda method: UniformRule(method.layer, method.rate),
    "text_only": lambda method: NothingRule(0, method.positions == "contiguous"),
    "downsample": lambda method: rules.DownsampleRule(method.rate),
    "average_pool": lambda method: rules.PooledRule(method.size, method.positions == "contiguous"),
    "prumerge": lambda method: tower_rules.PruMergeRule(method.ratio, method.neighbours),
    "prumerge_plus": lambda method: tower_rules.PruMergeRule(method.ratio, method.neighbours, plus=True),
    "visionzip": lambda method: tower_rules.VisionZipRule(method.dominant, method.contextual),
    "vispruner": lambda method: tower_rules.VisPrunerRule(method.rate, method.important),
    "hiprune": lambda method: tower_rules.HiPruneRule(
        method.rate, method.alpha, method.object_layer, wrap=method.wrap
    ),
    "fastervlm": lambda method: tower_rules.FasterVLMRule(method.rate),
    "cdpruner": lambda method: question_rules.CDPrunerRule(method.rate),
    "trim": lambda method: question_rules.TRIMRule(method.rate, method.similarity, method.spread),
    "tome": lambda method: merging_rules.ToMeRule(method.merged, method.proportional),
    "voco": lambda method: rules.VoCoRule(method.token),
    "annealing": decode_time_rules.AnnealingRule,
    "dycoke": decode_time_rules.DyCokeRule,
    "visionpulse": decode_time_rules.VisionPulseRule,
    "CentreTokens": lambda method: CentreRule(method.layer, method.rate),
    "MergedTokens": lambda method: rules.MergedTokensRule(method.dominant, method.contextual),
    "AdaptiveCount": lambda method: rules.AdaptiveCountRule(method.spread),
    "RecycledTokens": lambda method: rules.RecycledTokensRule(method.layers, method.rate),
    "QuestionMatch": lambda method: rules.QuestionMatchRule(method.layer, method.rate),
    "PooledConnector": lambda method: rules.PooledConnectorRule(method.size),
    "CompressionTokens": lambda method: rules.CompressionTokensRule(method.tokens, method.seed),
    "MassShare": lambda method: rules.MassShareRule(method.layer, method.least, method.most),
}


def _made(rule: Callable[[Any], Rule], method: ReductionMethod) -> Rule:
    made = rule(method)
    if isinstance(made, tower_rules.ImageRule):
        made.contiguous = method.needs(6).positions == "contiguous"
    return made


def _case(spec: dict[str, Any]) -> Case:
    method = load_method(spec)
    rule = RULES.get(spec["name"].rpartition(":")[2])
    compression = method.needs(6).compression_tokens
    if rule is not None:
        return Case(method, lambda length, kept: _made(rule, method), compression)
    if isinstance(method, StepwisePruning):
        return Case(method, lambda length, kept: rule_of(method))
    contiguous = method.needs(6).positions == "contiguous"
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

FILES: dict[str, list[dict[str, Any]]] = {
    "dyrate": DYRATE,
    "CompressionTokens": [{"tokens": [70, 71], "width": 32}],
}
"""Settings that name files, or need other prompts."""
_FILES_THAT_KEEP = [
    {"name": "dyrate", "predictor": always_zero("zero")},
    {"name": "dyrate", "predictor": always_zero("zero-gru", kind="gru", lagged=(4,), ranking="mlp")},
    {"name": "dyrate", "predictor": always_zero("zero-window", kind="window"), "mode": "evict"},
]
_OUTSIDE = [
    f"{path}:{''.join(part.title() for part in path.stem.split('_'))}"
    for path in sorted(EXAMPLES.glob("*.py"))
]


def _cases(names: list[str]) -> list[Case]:
    return [
        _case({"name": name, **spec})
        for name in names
        for spec in FILES.get(name.rpartition(":")[2], class_of(name).examples)
    ]


CASES = _cases(list(references()))
ORIGINAL = {
    case.method.name: _case({**case.method.spec(), "positions": "original"})
    for case in reversed(CASES)
    if case.method.needs(6).tower
}
"""Methods that read the tower, by name, each in its first setting, at original positions."""
OUTSIDE = _cases(_OUTSIDE)
"""The methods of `examples/`, one file each, that nothing in the package knows."""


def _runs_on_engine(case: Case) -> bool:
    return not any(query == "res" and key != "img" for query, key in case.method.needs(6).blocked)


ON_ENGINE = [case for case in CASES + OUTSIDE if _runs_on_engine(case)]
"""Those that the graph engine runs, too; it refuses the others by name."""

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
]

KEEP_EVERYTHING = [
    load_method({"name": name, **spec})
    for name in [*references(), *_OUTSIDE]
    for spec in class_of(name).keeps_everything
] + [load_method(spec) for spec in _FILES_THAT_KEEP]


def prompts(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs, with the case's compression tokens behind each image."""
    ids = inputs["input_ids"].clone()
    for place, token in enumerate(case.compression_tokens):
        image = inputs["input_ids"] == IMAGE
        rows, columns = (image[:, :-1] & ~image[:, 1:]).nonzero(as_tuple=True)
        ids[rows, columns + 1 + place] = token
    return {**inputs, "input_ids": ids}
