"""Claims: a predictor says the same step by step and all at once, and is on disk what it was in memory."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dyrate import DyRate
from dyrate.errors import DyrateError
from dyrate.predictor_config import PredictorConfig, read_record
from dyrate.predictors import Predictor, load_predictor, save_predictor
from tests.training.classroom import HEADS, wild_predictor


def masses(batch: int = 3, steps: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand((batch, steps, HEADS, 4), generator=generator).softmax(-1)


@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {"kind": "linear"},
        {"kind": "mlp"},
        {"kind": "window"},
        {"kind": "window", "history": 1},
        {"kind": "window", "history": 9},
        {"kind": "gru"},
        {"kind": "gru", "output": "ordinal"},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
@torch.no_grad()
def test_steps_one_by_one_equal_all_at_once(config, per_head) -> None:
    rate, mass = wild_predictor(per_head=per_head, **config).rate, masses()
    state: dict[str, Tensor] = {}
    one_by_one = [rate.logits(rate.step(mass[:, step], state)) for step in range(mass.shape[1])]
    torch.testing.assert_close(torch.stack(one_by_one, dim=1), rate(mass), atol=1e-4, rtol=1e-4)

    state = {}
    chosen = torch.stack([rate.next_rates(mass[:, step], state) for step in range(mass.shape[1])], dim=1)
    most_probable = rate(mass).argmax(dim=-1)
    assert (chosen * rate.config.rates).round().tolist() == most_probable.tolist()
    assert most_probable.unique().numel() > 2


@pytest.mark.parametrize("kind", ["window", "gru"])
@torch.no_grad()
def test_the_memory_of_a_row_goes_where_the_row_goes(kind) -> None:
    rate, mass = wild_predictor(kind=kind).rate, masses()
    state: dict[str, Tensor] = {}
    for step in range(4):
        rate.step(mass[:, step], state)
    rows = torch.tensor([2, 2, 0])
    state = {name: value[rows] for name, value in state.items()}
    moved = rate.logits(rate.step(mass[rows, 4], state))
    torch.testing.assert_close(moved, rate(mass[rows])[:, 4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "later"), [("linear", 1), ("mlp", 1), ("window", 4), ("gru", 6)])
@torch.no_grad()
def test_how_far_back_a_predictor_looks(kind, later) -> None:
    """A change at step 0 shows at the steps that see step 0, and at no other."""
    rate, mass = wild_predictor(kind=kind).rate, masses()
    changed = mass.clone()
    changed[:, 0] = changed[:, 0].flip(-1)
    differs = (rate(mass) != rate(changed)).any(-1).any(0).tolist()
    assert differs[0]
    assert not any(differs[later:]) or kind == "gru"
    assert differs[later - 1]


@torch.no_grad()
def test_ordinal_rates_have_one_peak_and_never_all_the_mass_on_it() -> None:
    rate = wild_predictor(output="ordinal", rates=20).rate
    chances = rate(masses(batch=9)).softmax(-1)
    assert chances.argmax(-1).unique().numel() > 1
    rising = (chances.diff(dim=-1) > 0).long()
    assert (rising.diff(dim=-1) <= 0).all()  # up to the peak, then down
    assert chances.max() < 0.6  # a width of one rate, with the peak on the first or last


def test_a_record_from_before_a_field_existed_means_its_default(tmp_path) -> None:
    save_predictor(wild_predictor(), tmp_path, {})
    path = tmp_path / "predictor.json"
    record = json.loads(path.read_text())
    del record["config"]["output"]
    path.write_text(json.dumps(record))
    assert load_predictor(tmp_path).config.output == "classes"


@torch.no_grad()
def test_a_ranker_scores_each_token_by_its_own_attention_alone() -> None:
    ranker = wild_predictor(ranking="mlp").decode_ranker
    layers = [torch.rand(2, HEADS, 10), torch.rand(2, HEADS, 10)]
    scores = ranker(layers)
    assert scores.shape == (2, 10)
    order = torch.randperm(10)
    torch.testing.assert_close(ranker([layer[..., order] for layer in layers]), scores[:, order])


def test_what_is_saved_is_what_is_loaded(tmp_path) -> None:
    predictor = wild_predictor(kind="gru", ranking="linear", lagged=(3, 5))
    save_predictor(predictor, tmp_path, {"schedule": [0.5]})
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = load_predictor(tmp_path)
    assert torch.equal(torch.get_rng_state(), before), "whoever samples next would notice"
    assert loaded.config == predictor.config
    assert all(torch.equal(v, predictor.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert read_record(tmp_path)["schedule"] == [0.5]
    first = (tmp_path / "predictor.safetensors").read_bytes()
    save_predictor(loaded, tmp_path / "again", {"schedule": [0.5]})
    assert (tmp_path / "again" / "predictor.safetensors").read_bytes() == first


def test_a_predictor_is_small() -> None:
    assert wild_predictor(kind="gru", ranking="mlp", per_head=True).parameters_count < 10_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "predictor.json").unlink(), "train one with"),
        (lambda folder: (folder / "predictor.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "predictor.json").write_text("{}"), "schema dyrate.predictor"),
        (lambda folder: (folder / "predictor.safetensors").unlink(), "is missing beside"),
        (lambda folder: (folder / "predictor.safetensors").write_bytes(b"12345678"), "does not fit"),
        (lambda folder: change(folder, hidden=7), "does not fit"),
        (lambda folder: change(folder, kind="lstm"), "kind='lstm'"),
        (lambda folder: change(folder, layer="2"), "layer='2'"),
        (lambda folder: change(folder, depth=3), "expected the keys heads, layer and perhaps hidden"),
        (lambda folder: change(folder, output="rank"), "output='rank'"),
        (
            lambda folder: forge(folder, sha256=None),
            "sha256: is None, but .* if the two belong together, put",
        ),
        (lambda folder: forge(folder, schedule=[float("nan")]), "NaN is no number of JSON"),
        (lambda folder: retrain(folder, lambda t: t.mul_(1.01)), r"sha256: is '\w{64}', but predictor\.safe"),
        (lambda folder: retrain(folder, lambda t: t.fill_(math.nan)), "has numbers that are not finite"),
        (lambda folder: retrain(folder, lambda t: t.fill_(math.inf)), "has numbers that are not finite"),
        (lambda folder: retrain(folder, lambda t: t.half()), "is torch.float16 .*, should be torch.float32"),
        (lambda folder: retrain(folder, lambda t: t[None]), r"is torch.float32 \(1, .*, should be"),
        (lambda folder: retrain(folder, lambda _: None), r"the tensor rate\..* is missing"),
        (lambda folder: retrain(folder, lambda t: t, "more"), "the tensor more should not be there"),
    ],
)
def test_damaged_predictors_are_explained(damage, message, tmp_path) -> None:
    save_predictor(wild_predictor(), tmp_path, {})
    damage(tmp_path)
    with pytest.raises(DyrateError, match=message):
        load_predictor(tmp_path)


def change(folder, **config) -> None:
    path = folder / "predictor.json"
    record = json.loads(path.read_text())
    record["config"] |= config
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("field", ["layer", "heads", "rates", "hidden", "history", "ranking_hidden"])
def test_unfit_configs_are_explained(field) -> None:
    with pytest.raises(DyrateError, match=f"{field}=0: expected at least"):
        PredictorConfig(**{"layer": 2, "heads": 4, field: 0})


def test_rankers_of_a_seed_are_the_same_for_every_kind_of_rate_predictor() -> None:
    def ranker(**config: Any) -> list[Tensor]:
        torch.manual_seed(3)
        made = Predictor(PredictorConfig(layer=2, heads=4, ranking="mlp", **config))
        assert made.prefill_ranker is not None
        return list(made.prefill_ranker.state_dict().values())

    expected = ranker()
    others: tuple[dict[str, Any], ...] = ({"kind": "gru"}, {"kind": "window"}, {"per_head": True})
    for config in (*others, {"rates": 5, "output": "classes"}):
        assert all(map(torch.equal, ranker(**config), expected)), config


def forge(folder, **values) -> None:
    path = folder / "predictor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def retrain(folder, make, name: str | None = None) -> None:
    """Put what `make` makes of its first tensor into the weights file, under another name perhaps."""
    path = folder / "predictor.safetensors"
    tensors = load_file(path)
    first = min(key for key in tensors if tensors[key].numel() > 1)
    made = make(tensors[first].clone())
    if name is None:
        del tensors[first]
    save_file({**tensors, **({} if made is None else {name or first: made.contiguous()})}, path)


def test_a_predictor_is_refused_on_other_weights_than_it_was_trained_on(tmp_path) -> None:
    for name, record in (("one", {"model": {"weights": "a" * 64}}), ("any", {})):
        save_predictor(wild_predictor(layer=2), tmp_path / name, record)
    DyRate(predictor=str(tmp_path / "one")).check_checkpoint("a" * 64)
    DyRate(predictor=str(tmp_path / "any")).check_checkpoint("b" * 64)
    with pytest.raises(
        DyrateError, match=r"was trained on other weights \(a{12}\) than this model's \(b{12}\)"
    ):
        DyRate(predictor=str(tmp_path / "one")).check_checkpoint("b" * 64)


@pytest.mark.parametrize("folder", sorted(Path("predictors").glob("*/*/*")), ids=lambda path: path.name)
def test_every_predictor_of_the_repository_is_whole(folder) -> None:
    load_predictor(folder)
