"""DyRate and its ablations beyond the contract table: what they equal, what they refuse, what they show."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import DepthBasedPrune, DyRate, FastV, FixedPrune, load_method
from dyrate.errors import DyrateError
from dyrate.predictor_config import RECORD_FILE
from dyrate.predictors import load_predictor, save_predictor
from dyrate.reduction import Needs, ReductionMethod, Run
from tests.runtime.method_table import DYRATE
from tests.runtime.tiny_predictors import SCHEDULE, random_predictor, tiny_predictor
from tests.tiny import tiny_inputs, tiny_llava

PREDICTOR = tiny_predictor("default")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3, 20])


def generate(
    model: Any, method: ReductionMethod, inputs: dict[str, Tensor], steps: int = 6
) -> tuple[Any, Run]:
    with method(model) as run:
        output = model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return output, run


def retained(run: Run) -> Tensor:
    """[rows, steps]"""
    table = run.steps.pivot_table(index="row", columns="step", values="retained")
    return torch.tensor(table.to_numpy())


def refused(message: str) -> Any:
    return pytest.raises(DyrateError, match=re.escape(message))


@pytest.mark.parametrize("mode", ["evict", "select", "none"])
@pytest.mark.parametrize(("layer", "rate"), [(2, 0.5), (3, 0.83)])
def test_a_fixed_rate_from_the_prefill_on_is_fastv(
    mode: str, layer: int, rate: float, model: Any, inputs: dict[str, Tensor]
) -> None:
    theirs, their_run = generate(model, FastV(layer=layer, rate=rate), inputs)
    ours, our_run = generate(model, FixedPrune(layer=layer, rate=rate, mode=mode), inputs)
    assert torch.equal(torch.stack(ours.logits), torch.stack(theirs.logits))
    assert torch.equal(our_run.kv_lengths, their_run.kv_lengths)
    assert our_run.steps.equals(their_run.steps)


def test_depth_based_pruning_is_a_fixed_rate_below_its_depth(model: Any, inputs: dict[str, Tensor]) -> None:
    deep = DepthBasedPrune(layer=4, rate=0.5, correction=0.2, prune_prefill=False)
    fixed = FixedPrune(layer=4, rate=0.7, prune_prefill=False)
    (ours, run), (theirs, _) = generate(model, deep, inputs), generate(model, fixed, inputs)
    assert torch.equal(torch.stack(ours.logits), torch.stack(theirs.logits))
    # The first four layers keep everything, the deeper ones round(0.3 * 16) tokens.
    assert run.decode_tokens.tolist() == [16, 16, 16, 16, 5, 5]


def test_a_correction_beyond_the_share_there_is_is_refused() -> None:
    with refused("DepthBasedPrune(rate=0.5, correction=0.6): expected a sum from 0 to 1"):
        DepthBasedPrune(rate=0.5, correction=0.6)
    with refused("expected a sum"):
        load_method({"name": "depth_prune", "rate": 0.1, "correction": -0.2})


FREE = 4  # a layer that all of them reduce
PREDICTED = [spec for spec in DYRATE if spec.get("mode") != "none" and "rates" not in spec]


@pytest.mark.parametrize("spec", PREDICTED, ids=lambda spec: Path(spec["predictor"]).name)
def test_the_table_has_rates_that_differ_between_rows_and_steps(
    spec: dict[str, Any], model: Any, inputs: dict[str, Tensor]
) -> None:
    """Else its agreement with the reference would say little."""
    seen = generate(model, DyRate(**spec), inputs)[1].decode_tokens_per_row[:, FREE]
    assert (seen.amax(0) > seen.amin(0)).any()
    assert (seen.amax(1) > seen.amin(1)).any()


def test_a_schedule_gives_every_row_the_mean_rate_of_its_step(model: Any, inputs: dict[str, Tensor]) -> None:
    method = DyRate(predictor=PREDICTOR, rates="schedule", prune_prefill=False)
    shares = retained(generate(model, method, inputs)[1])
    kept = [16, *(round((1 - rate) * 16) for rate in [*SCHEDULE[1:], *[SCHEDULE[-1]] * 3])]
    assert (shares * 16).tolist() == [kept] * 3


def test_a_monotone_run_never_wants_more_and_a_minimum_is_kept(model: Any, inputs: dict[str, Tensor]) -> None:
    free = DyRate(predictor=PREDICTOR, prune_prefill=False)
    bound = DyRate(predictor=PREDICTOR, prune_prefill=False, monotone=True, minimum=0.3)
    assert (retained(generate(model, free, inputs)[1]).diff(dim=1) > 0).any()
    shares = retained(generate(model, bound, inputs)[1])
    assert (shares.diff(dim=1) <= 0).all()
    assert shares.min() == 5 / 16


def test_small_evictions_wait(model: Any, inputs: dict[str, Tensor]) -> None:
    """The schedule wants 13, 8 and 7 of 16 tokens; fewer than 4 at a time do not go."""

    def held(evict_at_least: int, mode: str = "evict") -> list[float]:
        method = DyRate(
            predictor=tiny_predictor("slow", schedule=[0.0, 0.2, 0.5, 0.55]),
            rates="schedule",
            mode=mode,
            evict_at_least=evict_at_least,
        )
        output, run = generate(model, method, inputs, steps=5)
        assert run.kv_lengths[-1, 2] == output.past_key_values.layers[-1].keys.shape[2]
        return (retained(run)[0] * 16).tolist()

    assert held(1) == [16, 13, 8, 7, 7]
    assert held(2) == [16, 13, 8, 8, 8]
    assert held(4) == [16, 16, 8, 8, 8]
    assert held(4, "select") == [16, 13, 8, 7, 7]


def test_only_what_is_used_is_read(model: Any) -> None:
    def needs(**config: Any) -> Needs:
        return DyRate(predictor=tiny_predictor("read", **config)).needs(6)

    assert set(needs().observed) == {1}
    assert needs().decode == (2,)
    assert set(needs(ranking="linear").observed) == {0, 1}
    # The layer behind a lagged one goes back to the choice; behind the last one there is none.
    assert (set(needs(lagged=(3,)).observed), set(needs(lagged=(3,)).decode)) == ({1, 3}, {2, 3, 4})
    assert set(needs(lagged=(4,)).decode) == {2, 4, 5}
    assert set(needs(lagged=(5,)).decode) == {2, 5}
    assert needs().capturable
    assert FixedPrune().needs(6).capturable


def test_lagged_layers_see_every_token_held(model: Any, inputs: dict[str, Tensor]) -> None:
    method = DyRate(predictor=tiny_predictor("lag-seen", lagged=(3,)), prune_prefill=False)
    _, run = generate(model, method, inputs)
    seen = run.decode_tokens.tolist()
    assert [*seen[:2], seen[3]] == [16] * 3
    assert seen[2] == seen[4] == seen[5] < 16


def test_layer_k_is_reported_whatever_else_is_read(model: Any, inputs: dict[str, Tensor]) -> None:
    method = DyRate(predictor=tiny_predictor("reported", lagged=(4,), ranking="linear"))
    _, run = generate(model, method, inputs)
    assert sorted(run.class_mass) == [0, 1, 4]
    mass = run.steps.filter(like="mass_").to_numpy().reshape(3, 6, 4)
    torch.testing.assert_close(torch.tensor(mass), run.class_mass[1].mean(dim=2).transpose(0, 1))


def test_one_method_serves_inference_mode_and_autograd(model: Any, inputs: dict[str, Tensor]) -> None:
    method = DyRate(predictor=tiny_predictor("modes", kind="gru", ranking="mlp"))
    with torch.inference_mode():
        first = generate(model, method, inputs)[0].sequences
    with method(model):
        output = model(**inputs)
    assert output.logits.requires_grad
    assert torch.equal(output.logits[:, -1].argmax(-1), first[:, inputs["input_ids"].shape[1]])


def test_what_a_label_and_a_spec_show() -> None:
    method = DyRate(predictor=PREDICTOR)
    assert method.label == "DyRate (K=2, default, select)"
    assert DyRate(predictor="a/b/", mode="evict", minimum=0.1).label == "DyRate (K=2, b, evict, minimum=0.1)"
    ours = DyRate(predictor=tiny_predictor("learned", ranking="linear"))
    assert ours.label == "DyRate+ (K=2, learned, select)"
    assert (method.origin, ours.origin, FixedPrune().origin, FastV().origin) == (
        "paper",
        "ours",
        "paper",
        None,
    )
    assert FixedPrune(rate=0.6).label == "FixedPrune (K=3, R=0.6, select)"
    assert load_method(json.loads(json.dumps(method.spec()))) == method
    assert hash(method) == hash(DyRate(predictor=PREDICTOR))


def test_a_predictor_is_part_of_the_content_and_its_record_is_not(tmp_path: Path) -> None:
    def content(seed: int, record: dict[str, Any], **fields: Any) -> str:
        save_predictor(random_predictor(seed), tmp_path, record)
        return DyRate(predictor=str(tmp_path), **fields).content_hash

    first = content(0, {"schedule": [0.5], "seconds": 1})
    assert content(0, {"schedule": [0.6], "seconds": 2}) == first
    assert content(1, {"schedule": [0.5], "seconds": 1}) != first
    scheduled = content(0, {"schedule": [0.5]}, rates="schedule")
    assert content(0, {"schedule": [0.6]}, rates="schedule") != scheduled
    assert FastV().content_hash == ""


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "layer": ({"layer": 3}, "layer=3, but the predictor in PATH was made for layer=2"),
    "heads": ({"predictor": {"heads": 8}}, "has 4 attention heads per layer, but the predictor in PATH was"),
    "lag": ({"predictor": {"lagged": (3, 4)}, "mode": "evict"}, "lagged layers 3, 4, which must see every"),
    "depth": ({"predictor": {"lagged": (3, 9)}}, "there is no layer 9; the model has layers 0..5"),
    "schedule": ({"rates": "schedule"}, "predictor.json: schedule: expected the mean rate"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_predictor_for_something_else_is_refused_when_attached(
    case: str, model: Any, tmp_path: Path
) -> None:
    fields, message = MISFITS[case]
    config = fields.get("predictor", {})
    save_predictor(random_predictor(0, **config), tmp_path, {"schedule": [2.0]})
    method = DyRate(**{**fields, "predictor": str(tmp_path)})
    with refused(message.replace("PATH", str(tmp_path))):
        method(model)


@pytest.mark.parametrize("schedule", [[], [-0.1], [0.5, 1.1], [True], ["0.5"], 0.5, None])
def test_a_schedule_of_no_shares_is_refused(schedule: Any, model: Any, tmp_path: Path) -> None:
    save_predictor(random_predictor(0), tmp_path, {"schedule": schedule})
    with refused(f"{tmp_path / RECORD_FILE}: schedule: expected the mean rate"):
        DyRate(predictor=str(tmp_path), rates="schedule")(model)
    DyRate(predictor=str(tmp_path))(model)  # whose own rates need none


def test_a_schedule_may_drop_nothing_and_everything(model: Any, tmp_path: Path) -> None:
    save_predictor(random_predictor(0), tmp_path, {"schedule": [0, 1]})
    DyRate(predictor=str(tmp_path), rates="schedule")(model)


def test_a_predictor_for_other_weights_is_refused(tmp_path: Path) -> None:
    save_predictor(random_predictor(0), tmp_path, {"model": {"weights": "a" * 64}})
    DyRate(predictor=str(tmp_path)).check_checkpoint("a" * 64)
    with refused("was trained on other weights"):
        DyRate(predictor=str(tmp_path)).check_checkpoint("b" * 64)
    save_predictor(random_predictor(0), tmp_path, {})
    DyRate(predictor=str(tmp_path)).check_checkpoint("b" * 64)


def test_a_missing_predictor_is_refused_when_attached(model: Any, tmp_path: Path) -> None:
    method = DyRate(predictor=str(tmp_path / "none"))
    with refused(f"there is no predictor in {tmp_path / 'none'}"):
        method(model)
    with refused("needs a value for predictor"):
        load_method({"name": "dyrate"})


def test_a_predictor_is_read_once(model: Any, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    save_predictor(random_predictor(0), tmp_path, {})
    method = DyRate(predictor=str(tmp_path))
    first = generate(model, method, inputs)[0].sequences
    (tmp_path / RECORD_FILE).unlink()
    assert torch.equal(generate(model, method, inputs)[0].sequences, first)
    with refused("there is no predictor"):
        load_predictor(tmp_path)


def test_per_head_scores_average_to_the_scores_and_are_0_where_a_token_is_not_seen(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    found: list[Any] = []

    class Watching(FastV):
        def needs(self, depth: int) -> Needs:
            return Needs(prefill=(2,), decode=(2,), attention=tuple(range(depth)), reported=1)

        def decode(self, view: Any) -> None:
            found.append(view.previous)

    generate(model, Watching(layer=2, rate=0.5), inputs, steps=3)
    for layer, statistics in found[0].items():
        assert statistics.head_scores.shape == (3, 4, 16)
        seen = statistics.scores > -torch.inf
        torch.testing.assert_close(statistics.head_scores.mean(1)[seen], statistics.scores[seen])
        assert (statistics.head_scores.amax(1)[~seen] == 0).all()
        assert seen.sum(1).tolist() == [16 if layer < 2 else 8] * 3
