"""The rules of single methods that the contract table does not pin down, and VTW's layer search."""

import io
import json
import math
import re
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyrate import method_commands as commands
from dyrate.errors import DyrateError
from dyrate.methods.downsample import near_square
from dyrate.methods.vtw_search import divergence, search_layer
from dyrate.question_files import questions_from
from dyrate.ranking import kept_counts, top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod
from tests.runtime.method_table import NothingRule
from tests.runtime.reference import Rule, masked_forward
from tests.tiny import NUM_LAYERS, tiny_inputs, tiny_llava


def test_counts_round_as_the_official_code_does() -> None:
    """`round` of Python: halves go to the even number."""
    for rate in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
        counts = kept_counts(torch.arange(600), rate)
        assert counts.tolist() == [round(visual * (1 - rate)) for visual in range(600)]
    assert kept_counts(torch.tensor([5, 144, 576]), 0.5).tolist() == [2, 72, 288]


def test_the_lower_index_wins_a_tie() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0, 1.0], [3.0, float("-inf"), 3.0, 3.0]])
    assert top(scores, torch.tensor([2, 4])).tolist() == [
        [True, True, False, False],
        [True, False, True, True],
    ]
    among = torch.tensor([[True, False, True, True], [False, True, True, True]])
    assert top(scores, torch.tensor([2, 1]), among).tolist() == [
        [True, False, True, False],
        [False, False, True, False],
    ]


@pytest.mark.parametrize(
    ("budget", "grid"), [(0, (0, 0)), (1, (1, 1)), (2, (1, 2)), (3, (1, 2)), (72, (8, 9)), (288, (16, 17))]
)
def test_near_square_grids(budget: int, grid: tuple[int, int]) -> None:
    assert near_square(budget) == grid
    assert max(h * w for h in range(25) for w in (h, h + 1) if h * w <= budget) == math.prod(grid)


def test_the_divergence_is_kl_of_the_dropped_from_the_full_distribution() -> None:
    full, dropped = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 1.0, 3.0]])
    p, q = dropped.softmax(-1)[0].tolist(), full.softmax(-1)[0].tolist()
    assert float(divergence(full, dropped)) == pytest.approx(
        sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-6
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


def prompts() -> list[dict[str, Tensor]]:
    return [tiny_inputs([length], seed=length) for length in (4, 9, 6)]


def test_the_layer_search_is_that_of_the_masked_reference(model: Any) -> None:
    found = search_layer(model, prompts(), eta=0.0, first_layer=2)
    for layer in range(2, NUM_LAYERS):
        total = 0.0
        for prompt in prompts():
            full = masked_forward(model, prompt, [0], Rule()).logits
            dropped = masked_forward(model, prompt, [0], NothingRule(layer, contiguous=False)).logits
            total += float(divergence(full, dropped))
        assert found.divergence[layer] == pytest.approx(total / 3, abs=1e-4)
    assert found.layer is None
    loose = search_layer(model, prompts(), eta=max(found.divergence.values()), first_layer=2)
    assert loose.layer is not None
    document = json.loads(loose.to_json())
    assert (document["layer"], document["samples"]) == (loose.layer, 3)


def test_a_search_without_layers_or_questions_is_refused(model: Any) -> None:
    with pytest.raises(DyrateError, match=r"expected 1\.\.5"):
        search_layer(model, prompts(), eta=0.1, first_layer=6)
    with pytest.raises(DyrateError, match="at least one question"):
        search_layer(model, [], eta=0.1)


def test_questions_come_from_json_lines_and_parquet(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    lines = tmp_path / "questions.jsonl"
    lines.write_text('{"image": "one.png", "question": "What?"}\n\n')
    table = tmp_path / "questions.parquet"
    parquet.write_table(
        pa.Table.from_pylist([{"image": {"bytes": data, "path": None}, "question": "What?"}]), table
    )
    for path in (lines, table):
        [(image, question)] = questions_from(path)
        assert question == "What?"
        assert image.getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.jsonl", '{"image": "one.png"}', "line 1"),
        ("q.jsonl", "not json", "line 1"),
        ("q.jsonl", '{"image": "none.png", "question": "?"}', "cannot read"),
        ("q.jsonl", '{"image": 3, "question": "?"}', "line 1.*expected"),
        ("q.jsonl", '["image"]', "line 1.*expected"),
        ("q.jsonl", '{"image": "q.jsonl", "question": "?"}', "line 1: the 37 bytes of the image are of no"),
        ("q.parquet", "PAR1", "not a parquet file"),
        ("q.txt", "", "expected a .jsonl or .parquet file"),
    ],
)
def test_mistakes_in_question_files_are_explained(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DyrateError, match=message):
        list(questions_from(tmp_path / name))


def test_text_that_is_not_utf8_is_explained(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(DyrateError, match="expected UTF-8"):
        list(questions_from(tmp_path / "q.jsonl"))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_bad_image_bytes_are_explained_with_their_row(form: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, form)
    good = {"bytes": file.getvalue(), "path": None}
    cut = {"bytes": file.getvalue()[:300], "path": None}
    rows = [{"image": image, "question": "What?"} for image in (good, cut)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    with pytest.raises(DyrateError, match=r"row 1: the image cannot be decoded"):
        list(questions_from(tmp_path / "q.parquet"))


@pytest.mark.parametrize("image", ["one.png", None, {"bytes": None, "path": None}], ids=str)
def test_parquet_without_images_is_explained(image: Any, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"image": image, "question": "What?"}])
    parquet.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(DyrateError, match=r"row 0: .*a Hugging Face Image"):
        list(questions_from(tmp_path / "q.parquet"))


def test_parquet_without_the_columns_is_explained(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"question": ["?"]}), tmp_path / "q.parquet")
    with pytest.raises(DyrateError, match="no column image; it has question"):
        list(questions_from(tmp_path / "q.parquet"))


def run(*arguments: str) -> int:
    parser = ArgumentParser()
    commands.register(parser.add_subparsers())
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def test_the_command_lists_methods_and_prints_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods") == 0
    listed = capsys.readouterr().out
    assert re.search(
        r"^fastv +Keep .* arXiv:2403.06764\n +layer=2 rate=0.5 queries=last$", listed, re.MULTILINE
    )
    assert run("methods", "vtw") == 0
    assert "layer: integer, default 15." in capsys.readouterr().out
    assert run("methods", "random", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["seed"]["minimum"] == 0
    with pytest.raises(DyrateError, match="needs the name of a method"):
        run("methods", "--schema")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the testbed's layout, with random weights."""
    from dyrate.testbed.models.architecture import build_model, build_processor, size_of
    from dyrate.testbed.models.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer(["What color is the small star? Answer with one word."])
    build_model(size_of("testbed-tiny"), tokenizer, seed=0).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def test_the_search_command_prints_its_choice_and_writes_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = tmp_path / "out" / "search.json"
    common = [
        "search-vtw",
        "--model",
        str(checkpoint),
        "--limit",
        "2",
        "--first-layer",
        "1",
        "--device",
        "cpu",
    ]
    assert run(*common, "--eta", "100", "--output", str(outcome)) == 0
    assert 'choice over 2 questions: {"name": "vtw", "layer": 1}' in capsys.readouterr().out
    assert json.loads(outcome.read_text())["layer"] == 1
    with pytest.raises(DyrateError, match="--limit: -1 is not a whole number from 1 on"):
        run("search-vtw", "--model", str(checkpoint), "--limit", "-1")
    with pytest.raises(DyrateError, match="raise --eta"):
        run(*common, "--eta", "0")


@dataclass(frozen=True)
class Answering(ReductionMethod):
    """Returns at layer 2 what it is asked to."""

    answer: ClassVar[Callable[[PrefillView], Any]]

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=(2,))

    def prefill(self, view: PrefillView) -> Any:
        return type(self).answer(view)


ANSWERS: dict[str, tuple[Callable[[PrefillView], Any], str]] = {
    "list": (lambda view: [True], "returned a list; a mask of the visual tokens to keep"),
    "array": (lambda view: view.present.numpy(), "returned a ndarray; a mask"),
    "floats": (lambda view: view.present.float(), "returned a torch.float32 tensor"),
    "short": (lambda view: view.present[:, :3], "of shape (2, 3)"),
    "elsewhere": (lambda view: view.present.to("meta"), "returned a mask on meta"),
    "a layer not read": (
        lambda view: view.attention[1].scores > 0,
        "view at prefill, entering layer 2, does not have the attention of layer 1: needs must name it",
    ),
    "states too wide": (
        lambda view: Kept(view.present, view.states[:, :3]),
        "returned states of shape (2, 3, 32)",
    ),
    "no homes": (
        lambda view: Kept(view.present, merged_into=view.present.float()),
        "returned merged_into of shape (2, 16); a LongTensor",
    ),
    "a tower not kept": (lambda view: view.tower(-1).states, "layer -1 of the vision tower was not kept"),
    "a question not asked for": (lambda view: view.questions, "which its needs must ask for: question=True"),
    "NaN": (
        lambda view: top(view.present / float("nan"), view.visual_tokens // 2),
        "the scores of row 0 at step 0 are NaN",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_no_mask_of_the_tokens_is_refused(case: str) -> None:
    answer, message = ANSWERS[case]
    method = type("Answering", (Answering,), {"answer": staticmethod(answer)})()
    model = tiny_llava()
    with pytest.raises(DyrateError, match=re.escape(message)), method(model):
        model(**tiny_inputs([5, 3]))
