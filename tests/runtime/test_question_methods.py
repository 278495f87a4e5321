"""Methods that compare the question with the image: numbers at LLaVA-1.5's sizes, and what is rare."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from dyrate import load_method
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint
from dyrate.methods.cdpruner import CDPruner, greedy_map
from dyrate.methods.trim import TRIM
from dyrate.question_reader import QuestionReader
from dyrate.testbed.world.examples import validation_example
from tests.tiny import tiny_inputs, tiny_llava

PATCHES = 576


def view_of(states: Tensor, embeds: Tensor, question: Tensor) -> Any:
    """One row with one image, as a method sees it, in a model whose connector changes nothing."""
    tokens = len(states)
    return SimpleNamespace(
        grid=torch.zeros(1, tokens, 3, dtype=torch.long),
        pictures=torch.zeros(1, tokens, dtype=torch.long),
        present=torch.ones(1, tokens, dtype=torch.bool),
        states=states[None],
        valid=torch.ones(1, tokens, dtype=torch.bool),
        visual_counts=torch.tensor([tokens]),
        visual_tokens=torch.tensor([tokens]),
        tower=lambda layer: SimpleNamespace(states=states[None], embeds=embeds[None]),
        question_features=question[None],
        project=lambda features: features,
        expect_finite=lambda name, values: None,
        count_macs=lambda macs: None,
    )


def random_view() -> Any:
    torch.manual_seed(0)
    return view_of(torch.randn(PATCHES, 640), torch.randn(PATCHES, 8), torch.randn(8))


@pytest.mark.parametrize(("rate", "kept"), [(1 - 64 / 576, 64), (1 - 128 / 576, 128), (2 / 3, 192)])
def test_cdpruner_keeps_the_published_numbers(rate: float, kept: int) -> None:
    assert int(CDPruner(rate=rate).prefill(random_view()).sum()) == kept


def test_cdpruner_wants_what_is_unlike_the_question_and_unlike_what_it_has() -> None:
    directions = torch.eye(4)
    states = directions[[0, 0, 1, 2, 2, 3]]
    # Cosines with the question: the fourth is its opposite, the last its like.
    angles = torch.tensor([0.5, 0.4, 0.0, -1.0, -0.9, 1.0]).acos()
    embeds = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = CDPruner(rate=0.5).prefill(view_of(states, embeds, torch.tensor([1.0, 0.0])))
    assert found[0].nonzero().flatten().tolist() == [1, 2, 3]


def test_items_that_add_nothing_come_last_and_by_index() -> None:
    features = one_hot(torch.tensor([1, 1, 0, 0])).float()
    kernel = features @ features.T
    assert greedy_map(kernel, 1).tolist() == [True, False, False, False]
    assert greedy_map(kernel, 2).tolist() == [True, False, True, False]
    assert greedy_map(kernel, 3).tolist() == [True, True, True, False]
    assert greedy_map(kernel, 4).all()
    assert not greedy_map(kernel, 0).any()


def test_trim_keeps_outliers_and_one_token_more() -> None:
    embeds = torch.zeros(PATCHES, 1)
    embeds[[5, 300]] = torch.tensor([[-9.0], [-8.0]])
    states = torch.arange(PATCHES).float()[:, None]
    kept = TRIM().prefill(view_of(states, embeds, torch.ones(1)))
    assert kept.tokens[0].nonzero().flatten().tolist() == [5, 300, 575]
    assert kept.order[0, [5, 300, 575]].tolist() == sorted(kept.order[0, [5, 300, 575]].tolist())
    torch.testing.assert_close(kept.states[0, 575], (states.sum(0) - 305) / 574)
    assert kept.merged_into[0, [0, 5, 300, 575]].tolist() == [575, 5, 300, 575]
    # The mean stands behind a token that stays and is the image's last.
    embeds[575] = -9
    kept = TRIM().prefill(view_of(states, embeds, torch.ones(1)))
    assert kept.tokens[0].nonzero().flatten().tolist() == [5, 300, 574, 575]
    assert kept.order[0, 574] > kept.order[0, 575]


@pytest.mark.parametrize(("rate", "kept"), [(0.75, 145), (0.9, 58), (1.0, 1), (0.0, 576), (0.001, 576)])
def test_trim_with_a_rate_keeps_so_many_and_one_more(rate: float, kept: int) -> None:
    assert int(TRIM(rate=rate).prefill(random_view()).tokens.sum()) == kept


def test_trim_without_an_outlier_keeps_the_mean_alone() -> None:
    states = torch.arange(16).float()[:, None]
    kept = TRIM().prefill(view_of(states, torch.ones(16, 2), torch.ones(2)))
    assert kept.tokens[0].nonzero().flatten().tolist() == [15]
    assert kept.states[0, 15].tolist() == [7.5]


def test_labels_say_what_decides_the_number() -> None:
    assert [TRIM().label, TRIM(rate=0.5).label] == ["TRIM (adaptive)", "TRIM (R=0.5)"]


@pytest.mark.parametrize("method", [CDPruner(), TRIM()], ids=lambda method: method.name)
def test_a_checkpoint_without_the_other_half_is_refused(method: Any) -> None:
    model = tiny_llava()
    with (
        pytest.raises(DyrateError, match="the checkpoint has no visual projection in clip/"),
        method(model, questions=QuestionReader(None)),
    ):
        model(**tiny_inputs())


@pytest.mark.parametrize("budget", [0.5, 1 / 3, 0.0625])
@pytest.mark.parametrize(
    "spec", [{"name": "cdpruner"}, {"name": "trim"}, {"name": "trim", "similarity": "cosine"}]
)
def test_layers_have_the_budget(spec: dict[str, Any], budget: float, testbed: Any) -> None:
    model, inputs, questions = testbed
    with load_method({**spec, "budget": budget})(model, questions=questions) as run, torch.no_grad():
        model(**inputs)
    for layer in range(model.config.text_config.num_hidden_layers):
        assert [len(row) for row in run.kept[layer]] == [pytest.approx(budget * 144, abs=0.5)] * 2


@pytest.fixture(scope="module")
def testbed() -> Any:
    folder = Path("models/testbed-s")
    processor, model = checkpoint.load(folder, torch.device("cpu"), "float32")
    examples = [validation_example(0, index) for index in range(2)]
    inputs = processor(
        images=[Image.fromarray(one.image) for one in examples],
        text=[f"USER: <image>\n{one.turns[0].prompt} ASSISTANT:" for one in examples],
        padding=True,
        return_tensors="pt",
    )
    return model, inputs, QuestionReader.of(processor.tokenizer, folder)
