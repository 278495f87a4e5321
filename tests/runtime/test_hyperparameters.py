"""Defaults and bounds of built-in methods, written down a second time; a new one may join them.

A default that moves changes what a bare name means in every study, and a bound that moves lets a value in
that means nothing. Both must be a decision, not a slip.
"""

import dataclasses
from typing import Any

import pytest

from dyrate import load_method, registry
from dyrate.errors import DyrateError

STEPWISE = {
    "mode": ("select", None, None),
    "prune_prefill": (True, None, None),
    "minimum": (0.0, 0, 1),
    "monotone": (False, None, None),
    "evict_at_least": (1, 1, None),
}
BUDGET = (None, 0, 1)
RATE = (0.5, 0, 1)
CONTIGUOUS = {"positions": ("contiguous", None, None)}
TABLE: dict[str, dict[str, tuple[Any, float | None, float | None]]] = {
    # name: field: default, smallest, largest
    "none": {},
    "fastv": {"budget": BUDGET, "layer": (2, 1, None), "rate": RATE, "queries": ("last", None, None)},
    "divprune": {
        "budget": BUDGET,
        "layer": (0, 0, None),
        "rate": (0.902, 0, 1),
        "positions": ("contiguous", None, None),
    },
    "dart": {
        "budget": BUDGET,
        "layer": (2, 1, None),
        "rate": (0.778, 0, 1),
        "visual_pivots": (4, 0, None),
        "instruction_pivots": (4, 0, None),
    },
    "pyramiddrop": {
        "budget": BUDGET,
        "ratios": ((0.5, 0.25, 0.125), None, None),
        "layers": ((), None, None),
        "positions": ("contiguous", None, None),
    },
    "sparsevlm": {
        "budget": BUDGET,
        "tokens": (192, None, None),
        "version": ("1.5", None, None),
        "layers": ((), None, None),
        "tie_noise": (False, None, None),
        "heads": (14, None, None),
        "divide": (True, None, None),
    },
    "vtw": {"budget": BUDGET, "layer": (15, 1, None), "positions": ("original", None, None)},
    "text_only": {"positions": ("contiguous", None, None)},
    "random": {"budget": BUDGET, "layer": (2, 0, None), "rate": RATE, "seed": (0, 0, None)},
    "uniform": {"budget": BUDGET, "layer": (2, 0, None), "rate": RATE},
    "downsample": {"budget": BUDGET, "rate": RATE},
    "average_pool": {"size": (2, 1, None), "positions": ("contiguous", None, None)},
    "prumerge": {"budget": BUDGET, "ratio": (None, 0, 1), "neighbours": (32, 0, None), **CONTIGUOUS},
    "prumerge_plus": {"budget": BUDGET, "ratio": (None, 0, 1), "neighbours": (32, 0, None), **CONTIGUOUS},
    "visionzip": {"budget": BUDGET, "dominant": (54, 1, None), "contextual": (10, 1, None), **CONTIGUOUS},
    "vispruner": {"budget": BUDGET, "rate": RATE, "important": (0.5, 0, 1), **CONTIGUOUS},
    "hiprune": {
        "budget": BUDGET,
        "rate": RATE,
        "alpha": (0.1, 0, 1),
        "object_layer": (0.375, 0, 1),
        "wrap": (True, None, None),
        **CONTIGUOUS,
    },
    "fixed_prune": {"layer": (3, 1, None), "rate": RATE, **STEPWISE},
    "depth_prune": {"layer": (4, 1, None), "rate": RATE, **STEPWISE, "correction": (0.0, -1, 1)},
    "replay": {"layer": (2, 1, None), "rates": (dataclasses.MISSING, None, None), **STEPWISE},
    "dyrate": {
        "layer": (2, 1, None),
        "predictor": (dataclasses.MISSING, None, None),
        "rates": ("predicted", None, None),
        **STEPWISE,
    },
}
REQUIRED = {"dyrate": {"predictor": "predictors/mine"}, "replay": {"rates": [0.5]}}


def spec(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **REQUIRED.get(name, {}), **fields}


@pytest.mark.parametrize("name", TABLE)
def test_defaults_are_those_of_the_table(name: str) -> None:
    fields = dataclasses.fields(registry.class_of(name))
    assert {field.name: field.default for field in fields} == {
        field: default for field, (default, _, _) in TABLE[name].items()
    }


BOUNDED = [
    (name, field, smallest, largest)
    for name, fields in TABLE.items()
    for field, (_, smallest, largest) in fields.items()
    if smallest is not None
]


@pytest.mark.parametrize(("name", "field", "smallest", "largest"), BOUNDED)
def test_bounds_are_those_of_the_table(name: str, field: str, smallest: int, largest: int | None) -> None:
    # Beside a rate of 1 every correction below 0 is possible, beside a rate of 0 every one above.
    beside = (lambda value: {"rate": float(value < 0)}) if field == "correction" else (lambda value: {})
    for value in (smallest, *([] if largest is None else [largest])):
        assert getattr(load_method(spec(name, **{field: value}, **beside(value))), field) == value
    for value in (smallest - 1, *([] if largest is None else [largest + 1])):
        with pytest.raises(DyrateError, match=f"{field}={value!r}"):
            load_method(spec(name, **{field: value}, **beside(value)))


@pytest.mark.parametrize("rate", [-0.1, 1.1, True, "0.5"])
def test_every_replayed_rate_is_looked_at(rate: Any) -> None:
    with pytest.raises(DyrateError, match="rates"):
        load_method(spec("replay", rates=[0.5, rate]))


def test_replayed_rates_may_be_0_and_1_but_not_missing() -> None:
    assert load_method(spec("replay", rates=[0, 1])).spec()["rates"] == [0.0, 1.0]
    with pytest.raises(DyrateError, match="rates"):
        load_method(spec("replay", rates=[]))


@pytest.mark.parametrize(("rate", "correction"), [(0.5, 0.5), (0.5, -0.5), (1.0, -1.0), (0.0, 1.0)])
def test_rate_and_correction_may_add_up_to_0_and_to_1(rate: float, correction: float) -> None:
    assert load_method(spec("depth_prune", rate=rate, correction=correction))


@pytest.mark.parametrize(("rate", "correction"), [(0.2, -0.5), (0.8, 0.5)])
def test_rate_and_correction_may_not_add_up_to_less_or_more(rate: float, correction: float) -> None:
    with pytest.raises(DyrateError, match="expected a sum from 0 to 1"):
        load_method(spec("depth_prune", rate=rate, correction=correction))
