"""Methods that read the vision tower, on other families than LLaVA: units, budgets and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import Needs, ReductionMethod
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.registry import class_of, load_method
from tests.runtime.example_rules import Reader
from tests.runtime.family_towers import FamilyTower
from tests.runtime.looking import seen
from tests.tiny_families import TINY, encoder_inputs

METHODS: dict[str, dict[str, Any]] = {
    "fastervlm": {"rate": 0.5},
    "hiprune": {"rate": 0.5},
    "vispruner": {"rate": 0.5},
    "visionzip": {"dominant": 3, "contextual": 2},
    "prumerge": {"ratio": 0.4},
}


def kept(model: Any, inputs: dict[str, Tensor], method: ReductionMethod) -> list[list[int]]:
    with method(model, questions=Reader()) as run, torch.no_grad():
        model(**inputs)
    return [row.tolist() for row in run.kept[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", TINY)
def test_a_budget_is_one_of_each_image_or_tile_after_unpadding_and_newlines_stay(
    family: str, name: str
) -> None:
    subject = TINY[family].subject
    method = load_method({"name": name, **METHODS[name], "positions": "original"})
    for number in (0, 1, 3):
        row = subject.rows[number]
        (found,) = kept(subject.model, row, method)
        with torch.no_grad():
            tower = FamilyTower(subject.model, row)
        newlines = {*range(subject.visual[number])}
        for picture in tower.pictures:
            places = {place for place, _ in picture}
            newlines -= places
            size = len(places)
            count = {"visionzip": min(5, size), "prumerge": int(0.4 * size) + 1}.get(name, round(size / 2))
            assert len(places & {*found}) == count
        assert newlines <= {*found}
        assert bool(newlines) == family.startswith("llava_")


@pytest.mark.parametrize("family", ["llava_next-llama", "llava_next-mistral"])
@pytest.mark.parametrize("spec", [{"name": "cdpruner"}, {"name": "trim", "rate": 0.5}], ids=str)
def test_questions_are_compared_with_tiles_of_clip(family: str, spec: dict[str, Any]) -> None:
    subject = TINY[family].subject
    together = kept(subject.model, subject.inputs, load_method(spec))
    for number, row in enumerate(subject.rows):
        assert kept(subject.model, row, load_method(spec)) == [together[number]]
    assert [len(row) for row in together[:3]] == {"cdpruner": [38, 52, 0], "trim": [43, 58, 0]}[spec["name"]]


@pytest.mark.parametrize("name", ["cdpruner", "trim"])
@pytest.mark.parametrize("family", [name for name in TINY if not name.startswith("llava_next")])
def test_questions_are_not_compared_with_towers_other_than_clips(family: str, name: str) -> None:
    said = rf"compares what the vision tower has with the question.* of {family.partition('-')[0]} is"
    with pytest.raises(DyrateError, match=said):
        load_method({"name": name})(TINY[family].model, questions=Reader())


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("part", ["class_attention", "joint_class_attention"])
def test_a_class_token_that_is_asked_for_must_be_there(family: str, part: Any) -> None:
    with pytest.raises(DyrateError, match="reads the attention of the class token, and a vision tower of"):
        seen(Needs(prefill=(0,), tower={-1: (part,)}), len, TINY[family].model, {})


@pytest.mark.parametrize("name", [*METHODS, "prumerge_plus"])
@pytest.mark.parametrize("family", TINY)
def test_keeping_everything_is_the_stock_model_to_the_last_bit(family: str, name: str) -> None:
    subject = TINY[family].subject

    def results() -> list[Tensor]:
        with torch.no_grad():
            found = [subject.model(**row).logits[:, -1] for row in subject.rows]
        output = subject.model.generate(
            **subject.inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return [*found, output.sequences, *output.logits]

    stock = results()
    for spec in class_of(name).keeps_everything:
        if name != "visionzip" or spec["dominant"] > 100:  # the other is LLaVA's 16 tokens
            with load_method({"name": name, **spec, "positions": "original"})(subject.model):
                assert all(torch.equal(*pair) for pair in zip(results(), stock, strict=True))


@pytest.mark.parametrize("ratio", ["anyres_max_1", "anyres_max_2", "anyres_max_9"])
def test_tokens_of_a_grid_that_was_shrunk_are_those_of_the_nearest_patch(ratio: str) -> None:
    """Of each token the patch with the largest weight, as features of zero and one show them."""
    tiny = TINY["llava_onevision"]
    model, row = tiny.model, tiny.subject.rows[0]
    inputs = {**encoder_inputs(model, row), "vision_aspect_ratio": ratio}
    tiles = family_of(model).tiles(inputs)[0]  # type: ignore[attr-defined]
    ones = torch.eye(tiles * 16).view(tiles, 16, tiles * 16)
    packed, _ = model.model.pack_image_features(
        [ones], row["image_sizes"], image_newline=-torch.ones(tiles * 16), vision_aspect_ratio=ratio
    )
    (found,) = family_of(model).sources(inputs, [len(packed[0])])
    shrunk = {"anyres_max_1": 4 * 3, "anyres_max_2": 6 * 4}.get(ratio, 6 * 8)
    assert ((found[:, 1] >= 0).sum(), (packed[0] >= 0).all(dim=1).sum()) == (16 + shrunk,) * 2
    for (tile, patch), weights in zip(found.tolist(), packed[0], strict=True):
        if patch < 0:
            assert tile == -1
            assert (weights == -1).all()
        else:
            assert tile == patch // 16
            assert weights[patch] >= weights.max() - 1e-5
