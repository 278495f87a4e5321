"""Claims: training prunes as much as it is paid for, resumes to the byte, and refuses what is not its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dyrate.errors import DyrateError
from dyrate.jobs import flag
from dyrate.predictor_training.job import Training
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import FrozenModel, teacher_forced
from dyrate.predictor_training.trainer import Trainer
from dyrate.predictor_training.validation import validate
from tests.tiny import tiny_llava
from tests.training.classroom import Stream, encode

RECIPE = Recipe(
    rates=8,
    output="classes",
    steps=30,
    ranking_steps=25,
    batch_size=4,
    ranking="linear",
    hidden=8,
    validation_examples=10,
)


def changed(**fields: Any) -> Recipe:
    return Recipe(**{**dict(RECIPE), **fields})


@pytest.fixture(scope="module")
def frozen():
    with teacher_forced(tiny_llava(num_layers=4)) as found:
        yield found


def trainer(recipe: Recipe, frozen: FrozenModel, folder: Path, **facts: str) -> Trainer:
    return Trainer(recipe, frozen, Stream(), encode, folder, {"model": {"weights": "a"} | facts})


def weights(found: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in found.predictor.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def finished(frozen, tmp_path_factory) -> Trainer:
    found = trainer(RECIPE, frozen, tmp_path_factory.mktemp("finished"))
    assert found.run()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "resumed"), [((7,), 0), ((24, 3), 1), ((33, 15), 1), ((25, 25), 2)])
def test_a_run_that_was_killed_ends_with_the_same_weights_and_curve(
    stops, resumed, frozen, finished, tmp_path
):
    for stop in stops:
        assert not trainer(RECIPE, frozen, tmp_path).run(stop_after=stop)
    last = trainer(RECIPE, frozen, tmp_path)
    assert last.run()
    assert equal(weights(last), weights(finished))
    assert json.dumps(last.progress.curve) == json.dumps(finished.progress.curve)
    assert last.progress.resumed == resumed


def test_the_seed_decides_the_weights(frozen, finished, tmp_path):
    again = trainer(RECIPE, frozen, tmp_path / "again")
    other = trainer(changed(seed=1), frozen, tmp_path / "other")
    torch.manual_seed(123)  # nothing depends on the global state
    assert again.run()
    assert other.run(stop_after=1) is False
    assert equal(weights(again), weights(finished))
    assert not equal(weights(other), weights(finished))


def test_the_curve_tells_both_parts(finished):
    parts = [point["part"] for point in finished.progress.curve]
    assert parts == ["ranking"] * 2 + ["rate"] * 2
    assert [point["step"] for point in finished.progress.curve] == [20, 25, 45, 55]
    first, *_, last = finished.progress.curve
    assert set(first) == {"step", "part", "ranking_loss"}
    assert set(last) == {
        "step",
        "part",
        "loss",
        "task_loss",
        "retained_prefill",
        "retained_decode",
        "temperature",
    }
    assert last["temperature"] < 0.6 < finished.progress.curve[2]["temperature"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["select", "evict"])
@pytest.mark.parametrize("kind", ["linear", "gru"])
def test_a_high_price_prunes_and_no_price_does_not(kind, mode, frozen, tmp_path):
    kept = {}
    for weight in (20.0, 0.0):
        recipe = changed(
            kind=kind,
            mode=mode,
            ranking="attention",
            steps=60,
            learning_rate=3e-2,
            budget_weight=weight,
            loss="distillation",
        )
        found = trainer(recipe, frozen, tmp_path / str(weight))
        found.run()
        result = validate(frozen, found.predictor, recipe, found.held_out())
        kept[weight] = result["validation"]["retained_prefill"], result["validation"]["retained_decode"]
    # Of 8 rates the highest keeps an eighth.
    assert max(kept[20.0]) < 0.3
    assert min(kept[0.0]) > 0.4


def test_validation_agrees_with_a_predictor_that_keeps_everything(frozen, tmp_path):
    found = trainer(changed(ranking="attention"), frozen, tmp_path)
    with torch.no_grad():
        found.predictor.rate.head[-1].bias.copy_(torch.tensor([1e4] + [0.0] * 7))
    result = validate(frozen, found.predictor, RECIPE, found.held_out())
    scores = result["validation"]
    assert scores["pruned"] == pytest.approx(scores["unpruned"], abs=1e-5)
    assert (scores["retained_prefill"], scores["retained_decode"]) == (1.0, 1.0)
    assert scores["examples"] == 10
    assert set(result["schedule"]) == {0.0}
    lengths = [2 + index * 7 % 5 for index in range(10_000, 10_010)]
    enough = [step for step in range(max(lengths)) if sum(length > step for length in lengths) >= 8]
    assert len(result["schedule"]) == len(enough)


def test_the_schedule_is_the_mean_rate_of_each_step(frozen, tmp_path):
    found = trainer(changed(ranking="attention"), frozen, tmp_path)
    with torch.no_grad():
        found.predictor.rate.head[-1].bias.copy_(torch.tensor([0.0] * 6 + [1e4, 0.0]))
    result = validate(frozen, found.predictor, RECIPE, found.held_out())
    assert set(result["schedule"]) == {6 / 8}
    assert result["validation"]["retained_prefill"] == pytest.approx(1 / 4)


def test_inputs_are_standardised_on_the_training_data(frozen, tmp_path):
    found = trainer(RECIPE, frozen, tmp_path)
    batch = found.batch(0)
    _, statistics = frozen.observe(batch, [0, 1])
    inputs = found.predictor.rate.standardise(found.predictor.rate.inputs(statistics[1].class_mass))
    assert inputs[batch.asked].abs().mean() < 2
    ranker = found.predictor.prefill_ranker
    values = ranker.standardise(ranker.inputs([statistics[layer].head_scores[:, 0] for layer in (0, 1)]))
    assert values.mean().abs() < 0.3
    assert values.std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        ({"steps": 31}, {}, r"another recipe: steps 30 there, 31 now; name another --output"),
        ({}, {"weights": "b"}, r"another model: weights 'a' there, 'b' now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, facts, message, frozen, finished, tmp_path):
    with pytest.raises(DyrateError, match=message):
        trainer(changed(**changes), frozen, finished.folder, **facts)


def test_a_damaged_checkpoint_is_explained(frozen, finished, tmp_path):
    data = (finished.folder / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(DyrateError, match=r"damaged.*remove it"):
        trainer(RECIPE, frozen, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists(), "the next run needs no hand"
    assert (tmp_path / "checkpoint.safetensors.damaged").exists()


@pytest.mark.parametrize("part", ["tensors", "progress"])
def test_a_changed_checkpoint_is_not_gone_on_from(part, frozen, finished, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    data = (finished.folder / "checkpoint.safetensors").read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes(flipped if part == "tensors" else data.replace(b"curve", b"Curve", 1))
    with pytest.raises(DyrateError, match=r"is damaged \(its content is not what was written\)"):
        trainer(RECIPE, frozen, tmp_path)


@pytest.mark.parametrize(("changes", "name"), [({"layer": 4}, "layer"), ({"lagged": (2, 9)}, "lagged")])
def test_layers_that_the_model_does_not_have_are_explained(changes, name, frozen, tmp_path):
    with pytest.raises(DyrateError, match=rf"{name}: there is no layer \d; the model has layers 0\.\.3"):
        trainer(changed(**changes), frozen, tmp_path)


def read(text):
    """The recipe that `--recipe` gives."""
    job = Training.of({"model": "m", "output": "o", "recipe": text}, flag)
    return Recipe.read(job.recipe, "--recipe")


def test_recipes_are_read_from_text_and_file(tmp_path):
    values = {"layer": 3, "lagged": [4, 5], "budget_weight": 1}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(values))
    assert read(json.dumps(values)) == read(str(path)) == Recipe.of(values)
    assert Recipe.of(values).lagged == (4, 5)
    assert Recipe.of(values).config(heads=6).heads == 6
    assert hash(Recipe.of(values)) != hash(Recipe())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"budget_wieght": 1}', "budget_wieght is unknown; did you mean 'budget_weight'"),
        ('{"zzz": 1}', "zzz is unknown; known: layer, "),
        ('{"steps": 0}', "--recipe: steps: 0 is not a whole number from 1 on"),
        ('{"steps": 1.5}', "steps: 1.5 is not a whole number"),
        ('{"prune_prefill": 1}', "prune_prefill: 1 is not true or false"),
        ('{"kind": "lstm"}', "kind: 'lstm' is not one of linear, mlp, window, gru"),
        ('{"mode": "drop"}', "mode: 'drop' is not one of evict, select"),
        ('{"lagged": [5], "mode": "evict"}', 'lagged: .5,. does not go with mode="evict"'),
        ('{"lagged": [1]}', "lagged=.1,.: expected layers from 2 on"),
        ('{"lagged": [3, 3]}', "lagged=.3, 3.: expected layers from 2 on, each once"),
        ('{"lagged": "5"}', "lagged: '5' is not a list"),
        ('{"temperature_end": 0}', "temperature_end: 0 is not above 0"),
        ('{"temperature_end": 2}', "temperature_start: 1.0 is not at least temperature_end, 2.0"),
        ('{"caption_share": 1.5}', "caption_share: 1.5 is not at most 1"),
        ('{"minimum": 2}', "minimum: 2 is not at most 1"),
        ('{"minimum": -1}', "minimum: -1 is not a number from 0 on"),
        ('{"layer": 0}', "layer=0: expected at least 1"),
        ("{", "not JSON"),
        ("none.json", "--recipe: none.json: expected JSON text or a readable file"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(text, message):
    with pytest.raises(DyrateError, match=message):
        read(text)
