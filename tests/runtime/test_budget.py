"""A budget in place of a method's own fields: what layers have on average, and what is refused."""

from typing import Any

import pytest
import torch

from dyrate import load_method
from dyrate.errors import DyrateError
from dyrate.methods.sparsevlm import SparseVLM
from tests.runtime.test_published_counts import LAYERS, counts
from tests.tiny import tiny_inputs, tiny_llava

# By how much the mean share may be off, beyond a rounding of tokens: layers are whole, and so are sides of an
# image; of tokens at equal distances some are among the best by chance; what is merged in each layer is a
# whole number.
METHODS: list[tuple[dict[str, Any], float]] = [
    ({"name": "fastv"}, 0),
    ({"name": "fastv", "layer": 7, "queries": "all"}, 0),
    ({"name": "random", "layer": 0}, 0),
    ({"name": "uniform", "layer": 3}, 0),
    ({"name": "downsample"}, 0.03),
    ({"name": "divprune"}, 0),
    ({"name": "dart"}, 8 / 576),
    ({"name": "dart", "instruction_pivots": 0, "visual_pivots": 9}, 9 / 576),
    ({"name": "fastervlm"}, 0),
    ({"name": "vispruner"}, 0),
    ({"name": "hiprune"}, 0),
    ({"name": "visionzip"}, 0),
    ({"name": "prumerge"}, 0),
    ({"name": "prumerge_plus"}, 0.03),
    ({"name": "pyramiddrop"}, 0.002),
    ({"name": "pyramiddrop", "layers": [2, 9]}, 0.002),
    ({"name": "sparsevlm"}, 0.004),
    ({"name": "sparsevlm", "version": "2.0"}, 0.002),
    ({"name": "sparsevlm", "version": "2.0", "layers": [1, 9, 12, 13]}, 0.002),
    ({"name": "tome"}, 0.001),
    ({"name": "vtw"}, 0.03),
]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(num_layers=LAYERS, image_size=96)


@pytest.mark.parametrize("budget", [0.5, 1 / 3])
@pytest.mark.parametrize(("spec", "slack"), METHODS, ids=lambda value: str(value)[:60])
def test_layers_have_the_budget_on_average(spec: Any, slack: float, budget: float, model: Any) -> None:
    if spec["name"] == "tome" and budget < 0.5:  # one layer of this tower merges, and merges half at most
        with pytest.raises(DyrateError, match=r"layers have 0\.5 of the visual tokens on average even if"):
            counts(model, **spec, budget=budget)
        return
    found = counts(model, **spec, budget=budget)

    assert sum(found) / LAYERS / 576 == pytest.approx(budget, abs=slack + 0.5 / 576 + 1e-9)


@pytest.mark.parametrize(("spec", "slack"), METHODS, ids=lambda value: str(value)[:60])
def test_a_budget_stands_for_other_fields_in_specs_and_labels(spec: Any, slack: float) -> None:
    method = load_method({**spec, "budget": 0.4})

    assert load_method(method.spec()) == method
    assert "B=0.4" in method.label
    assert "budget" not in load_method(spec["name"]).spec()
    fields = type(method).__dataclass_fields__
    replaced = fields["budget"].metadata["replaces"]
    assert not {*replaced} & {*method.spec()}
    with pytest.raises(DyrateError, match=rf"budget=0.4 stands for {replaced[0]}, which is .*: leave one"):
        load_method({**method.spec(), replaced[0]: fields[replaced[0]].default})


def test_a_budget_beside_what_it_stands_for_is_refused_in_python_as_well() -> None:
    with pytest.raises(DyrateError, match=r"SparseVLM\(budget=0.5, tokens=64\): expected one of the two"):
        SparseVLM(budget=0.5, tokens=64)


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ({"name": "fastv", "layer": 3}, "0.5"),
        ({"name": "dart", "layer": 2}, "0.3333"),
        ({"name": "pyramiddrop", "layers": [2, 4]}, "0.3333"),
        ({"name": "sparsevlm", "layers": [1, 3]}, "0.3"),
        ({"name": "vtw", "budget": 0.1}, "0.1667"),
    ],
)
def test_a_budget_that_the_first_layers_use_up_is_refused(spec: Any, least: str) -> None:
    model, inputs = tiny_llava(), tiny_inputs()
    method = load_method({"budget": 0.2, **spec})
    with (
        pytest.raises(DyrateError, match=rf"layers have {least}\d* of the visual tokens on average even if"),
        method(model),
        torch.no_grad(),
    ):
        model(**inputs)


@pytest.mark.parametrize(("spec", "slack"), METHODS, ids=lambda value: str(value)[:60])
def test_a_budget_of_everything_keeps_everything(spec: Any, slack: float, model: Any) -> None:
    if spec["name"] == "vtw":
        with pytest.raises(DyrateError, match="the model has layers"):
            load_method({**spec, "budget": 1.0})(model)
        return
    assert counts(model, **spec, budget=1.0) == [576] * LAYERS
