"""What a look says of a run is what the run recorded: tokens, rates, attention, bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dyrate import load_method
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.requests import Request, images_of
from dyrate.evaluation.setting import Setting
from dyrate.look.looker import Looker, spoken
from dyrate.look.record import Answer, Look
from dyrate.look.sources import requests_of
from tests.evaluation.stand_ins import LAYERS, PATCH, SIZE, VISUAL, make_benchmark

NEW = 6
METHODS: list[dict[str, Any]] = [
    {"name": "fastv", "layer": 1, "rate": 0.5},  # at layer K
    {"name": "vtw", "layer": 1},  # all at layer K
    {"name": "random", "layer": 0, "rate": 0.5},  # before the model
    {"name": "text_only"},
    {"name": "downsample", "rate": 0.5},  # before the tower
    {"name": "average_pool", "size": 2},  # behind the tower
    {"name": "tome", "budget": 0.5},  # merged inside the tower
    {"name": "fixed_prune", "layer": 1, "rate": 0.5, "mode": "select"},  # at each decode step
    {"name": "fixed_prune", "layer": 1, "rate": 0.5, "mode": "evict"},  # out of the cache
    {"name": "dyrate", "layer": 1, "mode": "select"},
    {"name": "dyrate", "layer": 1, "mode": "evict"},
]


def sets_of(answer: Answer) -> list[list[list[int]]]:
    """[steps][layers][tokens]"""
    return [[answer["sets"][number] for number in step["sets"]] for step in answer["steps"]]


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_tokens_rates_and_bytes_are_the_runs(
    spec: dict[str, Any], looker: Looker, photo: Image.Image, predictor: Path
) -> None:
    if spec["name"] == "dyrate":
        spec = {**spec, "predictor": str(predictor)}
    _, answer = looker.look(photo, "What is this?", [spec], NEW)["answers"]

    request = Request("What is this?", "{}", lambda row: [row], 0, "look", "")
    inputs = looker.model.read([looker.model.question(request, [photo])])
    with torch.no_grad(), load_method(spec)(looker.model.model) as run:
        ids = looker.model.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    made = ids[0, inputs["input_ids"].shape[1] :]

    assert answer["text"] == looker.model.tokenizer.decode(made, skip_special_tokens=True)
    assert len(answer["steps"]) == len(made)
    found = sets_of(answer)
    assert found[0] == [run.kept[layer][0].tolist() for layer in range(LAYERS)]
    counts = torch.tensor([[len(tokens) for tokens in step] for step in found])
    assert torch.equal(counts[1:], run.decode_tokens_per_row[:, :, 0])
    assert [step["rate"] for step in answer["steps"]] == run.steps["rate"].tolist()
    assert answer["kv_bytes"] == run.kv_bytes
    assert answer["prefill"] == pytest.approx(counts[0].float().mean().item() / VISUAL)
    np.testing.assert_allclose([sum(step["mass"].values()) for step in answer["steps"]], 1, atol=1e-5)


def test_the_unpruned_answer_comes_first_and_saves_nothing(look: Look) -> None:
    unpruned, *others = look["answers"]
    assert unpruned["label"] == "unpruned"
    assert unpruned["sets"] == [list(range(VISUAL))]
    assert unpruned["kv_bytes"] == unpruned["kv_bytes_whole"]
    assert [answer["method"]["name"] for answer in others] == ["fastv", "fixed_prune"]
    assert all(answer["kv_bytes"] < answer["kv_bytes_whole"] for answer in others)


def test_a_merging_method_says_so(looker: Looker, photo: Image.Image) -> None:
    methods = [{"name": "tome", "budget": 0.5}, {"name": "fixed_prune", "layer": 1, "mode": "evict"}]
    unpruned, merged, evicted = looker.look(photo, "What is this?", methods, NEW)["answers"]
    assert unpruned["notes"] == []
    assert "stands for the feature that took its place" in merged["notes"][0]
    assert "never return" in evicted["notes"][0]


def test_class_mass_is_that_of_a_trace_of_the_same_sample(
    checkpoint: Path, looker: Looker, tmp_path: Path
) -> None:
    make_benchmark(tmp_path, "gqa", 8)
    asked = ["--model", str(checkpoint), "--data", str(tmp_path), "--samples", "3", "--benchmarks", "gqa"]
    assert main(["trace", *asked, "--output", str(tmp_path / "trace.json")]) == 0
    mass = pq.read_table(tmp_path / "trace.parquet").to_pandas()

    [loaded] = load_tasks(select(["gqa"]), "testbed", tmp_path, 3)
    request = requests_of(looker.model, loaded)[2]
    images = images_of(request, looker.model.task_dict[request.task][request.split])
    question = looker.model.question(request, images)
    answer = looker.look_at(question, "gqa", "", looker.settings([]), 16)["answers"][0]

    expected = mass[mass["sample"] == 2].groupby("step")[["sys", "img", "ins", "res"]].mean()
    assert len(expected) == len(answer["steps"])
    found = np.array([list(step["mass"].values()) for step in answer["steps"]])
    np.testing.assert_allclose(found, expected.to_numpy(), atol=1e-5)


def test_a_patch_is_where_its_token_is(look: Look) -> None:
    picture = look["picture"]
    assert picture["places"] == [
        [row, column] for row in range(SIZE // PATCH) for column in range(SIZE // PATCH)
    ]


@pytest.mark.slow
def test_a_connectors_tokens_are_counted_and_not_drawn() -> None:
    looker = Looker("connectors/testbed-s/ldp", device="cpu")
    found = looker.look(Image.new("RGB", (168, 168), "teal"), "What color is this?", ["text_only"], 2)
    assert found["picture"]["places"] is None
    assert "ldp makes" in found["picture"]["note"]
    assert found["answers"][0]["sets"] == [list(range(found["visual_tokens"]))]
    assert "testbed" in looker.knows


def test_words_are_the_text_and_a_character_of_several_tokens_is_one() -> None:
    text = "a é, ß".encode()
    words = spoken(lambda ids: bytes(ids).decode(errors="replace"), list(text))
    assert "".join(words) == "a é, ß"
    assert words[2:4] == ["", "é"]


def test_words_come_while_the_model_answers(looker: Looker, photo: Image.Image) -> None:
    said: list[str] = []
    found = looker.look(photo, "What is this?", ["text_only"], NEW, said.append)
    unpruned, reduced = found["answers"]
    assert "".join(said) == f"\nunpruned\n  {unpruned['text']}\n\n{reduced['label']}\n  {reduced['text']}\n"
    assert len(said) > 4, "each answer came in one piece"


@pytest.mark.parametrize(
    ("methods", "question", "refusal"),
    [
        (["fastw"], "What?", "did you mean 'fastv'"),
        ([{"name": "fastv", "layer": 9}], "What?", "layer 9"),
        (["dyrate"], "What?", "needs a value for predictor"),
        (["fastv"], "  ", "asks nothing"),
        ([{"name": "fastv", "layer": 1}], "a <image> b <image>?", "2 places for images"),
        ([{"name": "fastv", "layer": 1}], "why " * 900, "2048 positions"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(
    methods: list[Any], question: str, refusal: str, looker: Looker, photo: Image.Image
) -> None:
    with pytest.raises(DyrateError, match=refusal):
        looker.look(photo, question, methods, NEW)


def test_a_name_loads_the_same_method_in_python_and_on_the_command_line() -> None:
    assert load_method("fastv") == load_method({"name": "fastv"}) == Setting.of("fastv").method
    assert load_method('{"name": "fastv", "layer": 3}') == Setting.of({"name": "fastv", "layer": 3}).method
