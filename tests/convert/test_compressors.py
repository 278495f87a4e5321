"""M3, TokenPacker and LLaMA-VID from their original layouts: what their connectors then make of an image."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from dyrate.cli import main
from dyrate.convert.convert import convert
from dyrate.errors import DyrateError
from dyrate.evaluation import results
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint import load
from dyrate.evaluation.evaluate import evaluate_loaded
from dyrate.evaluation.evaluate import load as load_for
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.registry import load_method
from dyrate.study.model import Model
from tests.convert import originals, references
from tests.convert.originals import HIDDEN, PIECES, SHARDS, TOWER, Tensors
from tests.evaluation.stand_ins import make_benchmark

SYSTEMS = "m3", "tokenpacker", "llama-vid"
SIZE = 56  # 4 x 4 patches
WIDE = {"m3": 16, "tokenpacker": 256, "llama-vid": 176}  # two heads each
TOKENS = {"m3": 16, "tokenpacker": 4, "llama-vid": 5}
CPU = torch.device("cpu")
QUESTIONS = ["What is this?", "Is this anything, is anything this?"]
PIECES_OF_THEM = [
    ["[CLS]", "what", "is", "this", "?", "[SEP]"],
    ["[CLS]", "is", "this", *["any", "##thing"], "[UNK]", "is", *["any", "##thing"], "this", "?", "[SEP]"],
]


class Original(NamedTuple):
    tensors: Tensors
    values: dict[str, Any]
    tower: Tensors
    """What a whole CLIP has, if the checkpoint does not have a tower itself."""


def clip(system: str) -> CLIPVisionConfig:
    """The tower's; TokenPacker's connector reads layers up to the 23rd."""
    return originals.vision(layers=24 if system == "tokenpacker" else 3, width=WIDE[system], size=SIZE)


def original(system: str) -> Original:
    """A checkpoint in the original layout: its tensors and `config.json`."""
    width = WIDE[system]
    tensors, tower = originals.original_tensors(originals.llava(tower=clip(system)))
    values = {"mm_hidden_size": width}
    match system:
        case "m3":
            tensors |= {TOWER + name: tensor for name, tensor in tower.items()}
            values |= {"matryoshka_vis_token_scale": [1, 4, 16], "unfreeze_mm_vision_tower": True}
        case "tokenpacker":
            tensors = {name: tensor for name, tensor in tensors.items() if "mm_projector" not in name}
            packer = originals.token_packer(width)
            tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in packer.items()}
            values |= {"mm_projector_type": "tokenpacker", "scale_factor": 2}
        case "llama-vid":
            tensors |= {TOWER + name: tensor for name, tensor in originals.eva(width, size=SIZE).items()}
            tensors |= {f"model.{name}": tensor for name, tensor in originals.context(width).items()}
            values |= {
                "architectures": ["LlavaLlamaAttForCausalLM"],
                "mm_vision_tower": "./model_zoo/LAVIS/eva_vit_g.pth",
                "image_processor": "./llamavid/processor/clip-patch14-224-336",
                "bert_type": "qformer_pretrain",
                "num_query": 32,
                "max_token": 2048,
                "compress_type": "grid:2",
            }
    return Original(tensors, originals.config(**values), tower)


def converted(folder: Path, system: str, made: Original) -> Path:
    """Write a checkpoint, and convert it."""
    source = originals.write_original(folder / "original", made.tensors, made.values)
    tower = originals.write_tower(folder / "clip", made.tower, clip(system))
    pieces = originals.write_pieces(folder / "bert")
    own = None if system == "llama-vid" else str(tower)
    record = convert(str(source), folder / "out", own, questions=str(pieces))
    assert record["system"] == system
    return folder / "out"


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(system: str) -> Original:
    return original(system)


@pytest.fixture(scope="module")
def out(system: str, made: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp(system), system, made)


def inputs(processor: Any, questions: list[str] = QUESTIONS) -> dict[str, Tensor]:
    prompts = [f"USER: <image>\n{text} ASSISTANT:" for text in questions]
    pixels = np.random.default_rng(0).integers(0, 256, (len(prompts), 40, 30, 3), np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    return dict(processor(images=images, text=prompts, padding=True, return_tensors="pt"))


@torch.no_grad()
def visual_tokens(folder: Path) -> tuple[Tensor, Tensor, Any]:
    """Pixels of two images, what the connector makes of each, and the joined model."""
    processor, model = load(folder, CPU, "float32")
    made: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda *call: made.append(call[2]))
    given = inputs(processor)
    model(**given)
    assert len(made) == 1
    return given["pixel_values"], made[0], model


def clip_states(made: Original, system: str, pixels: Tensor) -> list[list[Tensor]]:
    """Hidden states [1 + n, width] of each image, by CLIP itself."""
    tower = CLIPVisionModel(clip(system)).eval()
    names = {name.removeprefix("vision_model."): tensor for name, tensor in made.tower.items()}
    own = {name: names[name.removeprefix("vision_model.")] for name in tower.state_dict()}
    tower.load_state_dict(own)
    states = tower(pixels, output_hidden_states=True).hidden_states
    return [[layer[image] for layer in states] for image in range(len(pixels))]


@torch.no_grad()
def test_the_connector_makes_what_the_original_tensors_make(system: str, made: Original, out: Path) -> None:
    pixels, found, _ = visual_tokens(out)
    assert found.shape == (2, TOKENS[system], HIDDEN)
    for image, own in enumerate(found):
        match system:
            case "m3":
                states = clip_states(made, system, pixels)[image]
                expected = references.m3(made.tensors, states[-2][1:], 16)
            case "tokenpacker":
                states = clip_states(made, system, pixels)[image]
                expected = references.token_packer(made.tensors, states)
            case _:
                tower = {n.removeprefix(TOWER): tensor for n, tensor in made.tensors.items() if TOWER in n}
                words = [PIECES.index(piece) for piece in PIECES_OF_THEM[image]]
                padding = max(map(len, PIECES_OF_THEM)) - len(words)
                states = references.eva(tower, pixels[image])
                expected = references.llama_vid(made.tensors, states, words, padding, 2)
        assert expected.abs().mean() > 0.1
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_m3_has_a_folder_for_each_scale(tmp_path: Path) -> None:
    made = original("m3")
    out = converted(tmp_path, "m3", made)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["1", "4", "base"]
    for tokens in (1, 4):
        pixels, found, _ = visual_tokens(out / str(tokens))
        for own, states in zip(found, clip_states(made, "m3", pixels), strict=True):
            expected = references.m3(made.tensors, states[-2][1:], tokens)
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_batch_costs_what_its_rows_cost(out: Path) -> None:
    processor, model = load(out, CPU, "float32")
    given, costs = inputs(processor), []
    for rows in (QUESTIONS, *([text] for text in QUESTIONS)):
        with load_method({"name": "none"})(model) as run:
            model.generate(**inputs(processor, rows), max_new_tokens=1, do_sample=False)
        costs.append(run.encoder_macs)
        assert run.encoded == (len(rows), 16)
    assert costs[0] == costs[1] + costs[2] > 0
    assert (given["input_ids"] == model.config.image_token_id).sum(1).unique().numel() == 1


@pytest.mark.slow
def test_it_is_evaluated_as_any_model_is(system: str, out: Path, tmp_path: Path) -> None:
    """With and without pruning on top, by the path that a study's config takes."""
    make_benchmark(tmp_path, "gqa", 4)
    tasks = load_tasks(select(("gqa",)), "testbed", tmp_path, None)
    entry = Model.of({"name": "real", "connector": str(out)})
    assert {Path(path).name for path in entry.files} >= {"connector.json", "connector.safetensors"}
    model: DyrateModel | None = None
    for method in ({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5}):
        job = Evaluation.of(
            {
                "model": entry.checkpoint,
                "method": method,
                "benchmarks": ("gqa",),
                "data": tmp_path,
                "output": tmp_path / "results" / str(method["name"]),
                "batch_size": 3,
                "device": "cpu",
                "study": "test",
            }
        )
        model = model or load_for(job)
        model.configure(method)
        evaluate_loaded(job, model, tasks)
        result = results.read(job.files.result)["benchmarks"]["gqa"]
        tokens = result["visual_tokens"]
        assert tokens is not None
        kept = TOKENS[system] // (1 if method["name"] == "none" else 2)
        assert (result["samples"], tokens["total"]) == (4, TOKENS[system])
        assert tokens["prefill"] == [TOKENS[system], kept]


def test_a_base_without_its_connector_does_not_answer(system: str, made: Original, out: Path) -> None:
    base = out / "base"
    if system == "m3":
        _, model = load(base, CPU, "float32")
        linear = model.model.multi_modal_projector.linear_2
        assert torch.equal(linear.weight, made.tensors["model.mm_projector.2.weight"])
        return
    with pytest.raises(DyrateError, match=r"lacks model\.multi_modal_projector\..*by the connector's folder"):
        load(base, CPU, "float32")


def test_the_record_says_where_it_is_from(system: str, out: Path) -> None:
    record = json.loads((out / "connector.json").read_text())
    assert record["training"] == {"system": system, "source": str(out.parent / "original")}
    assert (record["model"], record["dtype"], record["adapter"]) == ("base", "float32", {})
    assert record["sizes"] == {"width": WIDE[system], "hidden": HIDDEN, "side": 4}
    assert (record["words"] is not None) == (out / "tokenizer.json").exists() == (system == "llama-vid")
    fields = {
        "m3": {"kernel": 1, "kernels": [4, 2, 1]},
        "tokenpacker": {"scale": 2, "layers": [12, 16, 22, 23, -2], "heads": 2},
        "llama-vid": {"edge": 2, "layer": -1, "queries": 32, "width": 128, "depth": 3, "heads": 2}
        | {"feed_forward": 256, "vocabulary": len(PIECES) + 1, "words": 256},
    }
    assert record["fields"] == fields[system]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    made = original("tokenpacker")
    tensors = {name: t if "inv_freq" in name else t.to(dtype) for name, t in made.tensors.items()}
    out = converted(tmp_path, "tokenpacker", made._replace(tensors=tensors))
    kept = load_file(out / "connector.safetensors")
    own = tensors["model.mm_projector.k_proj_1.0.weight"]
    assert torch.equal(kept["connector.k_proj.0.weight"], own)
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    _, model = load(out, CPU, "bfloat16")
    place = model.model.multi_modal_projector.connector
    assert torch.equal(place.k_proj[0].weight, own.bfloat16())


def test_a_long_question_is_read_from_its_end(tmp_path: Path) -> None:
    processor, model = load(converted(tmp_path, "llama-vid", original("llama-vid")), CPU, "float32")
    place = model.model.multi_modal_projector
    model.generate(**inputs(processor, ["What " + "any " * 300 + "?"]), max_new_tokens=1)
    any_, mark = PIECES.index("any"), PIECES.index("?")
    assert place.asked.ids.tolist() == [[2, *[any_] * 253, mark, 3]]


def test_an_image_of_all_patches_and_of_one_mean(tmp_path: Path) -> None:
    made = original("llama-vid")
    for kind, edge in ((None, 0), ("mean", 1)):
        values = {**made.values, "compress_type": kind}
        out = converted(tmp_path / str(kind), "llama-vid", made._replace(values=values))
        assert json.loads((out / "connector.json").read_text())["fields"]["edge"] == edge
        pixels, found, model = visual_tokens(out)
        tower = {n.removeprefix(TOWER): tensor for n, tensor in made.tensors.items() if TOWER in n}
        words = [PIECES.index(piece) for piece in PIECES_OF_THEM[1]]
        states = references.eva(tower, pixels[1])
        expected = references.llama_vid(made.tensors, states, words, 0, edge or 4)
        torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-4)
        assert model.model.multi_modal_projector.connector.tokens == (17 if kind is None else 2)


Damage = Callable[[Tensors, dict[str, Any]], object]


def without(name: str) -> Damage:
    return lambda tensors, values: tensors.pop(name)


def having(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return lambda tensors, values: tensors.update({name: change(tensors.get(name, torch.ones(4, 4)))})


def setting(**changes: Any) -> Damage:
    return lambda tensors, values: values.update(changes)


def cut(tensor: Tensor) -> Tensor:
    return tensor[..., :-1]


_PACKER, _VID = "model.mm_projector.", "model.vlm_att_"
_LAYER = f"{_VID}encoder.bert.encoder.layer."
REFUSED: list[tuple[str, Damage, str]] = [
    ("tokenpacker", without(f"{_PACKER}ln_k_1.bias"), f"lacks {_PACKER}ln_k_1.bias"),
    (
        "tokenpacker",
        having(f"{_PACKER}q_proj_1.bias", lambda t: t),
        f"no place, {_PACKER}q_proj_1.bias in {SHARDS[0]}",
    ),
    (
        "tokenpacker",
        having(f"{_PACKER}k_proj_1.0.weight", cut),
        f"otherwise {_PACKER}k_proj_1.0.weight ([256, 1023], expected [256, 1024]) in {SHARDS[0]}",
    ),
    ("tokenpacker", setting(scale_factor=3), "scale is 3, which does not divide an edge of 4 patches: 1, 2"),
    ("tokenpacker", setting(mm_vision_select_layer=-1), "are (-1, 'patch'); tokenpacker has (-2, 'patch')"),
    ("tokenpacker", setting(image_aspect_ratio="slice"), "image_aspect_ratio: 'slice' is not one of"),
    ("m3", setting(mm_vision_select_feature="cls_patch"), "are (-2, 'cls_patch'); m3 has (-2, 'patch')"),
    ("m3", setting(matryoshka_vis_token_scale=[2]), "2 tokens: squares of 2 patches do not fill an image of"),
    ("llama-vid", without(f"{_VID}ln.bias"), f"lacks {_VID}ln.bias"),
    ("llama-vid", without(f"{_LAYER}2.crossattention.self.key.bias"), f"lacks {_LAYER}2.crossattention."),
    (
        "llama-vid",
        having(f"{_VID}bert_proj.weight", lambda t: t),  # of a CLIP tower before a Q-Former for EVA
        f"no place, {_VID}bert_proj.weight in {SHARDS[0]}",
    ),
    (
        "llama-vid",
        having(f"{_VID}key_projector.weight", cut),
        f"otherwise {_VID}key_projector.weight ([176, 175], expected [176, 176]) in {SHARDS[0]}",
    ),
    (
        "llama-vid",
        having(f"{_LAYER}1.crossattention.self.key.bias", lambda t: t),
        f"no place, {_LAYER}1.crossattention.self.key.bias in {SHARDS[0]}",
    ),
    ("llama-vid", setting(bert_type="qformer"), "bert_type is 'qformer'; expected a pretrained Q-Former's"),
    ("llama-vid", setting(compress_type="grid:3"), "edge is 3, which does not divide an edge of 4 patches"),
    ("llama-vid", setting(compress_type="max"), "compress_type is 'max'; expected null, mean, or grid:"),
]


@pytest.mark.parametrize(("system", "damage", "message"), REFUSED)
def test_what_is_wrong_is_named_and_nothing_is_left(
    system: str, damage: Damage, message: str, tmp_path: Path
) -> None:
    made = original(system)
    damage(made.tensors, made.values)
    with pytest.raises(DyrateError, match=re.escape(message)) as refusal:
        converted(tmp_path, system, made)
    assert str(refusal.value).startswith(str(tmp_path / "original"))
    assert str(refusal.value).count("\n") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"original", "clip", "bert"}


def test_the_tokenizer_of_questions_is_berts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    made = original("llama-vid")
    source = str(originals.write_original(tmp_path / "original", made.tensors, made.values))
    with pytest.raises(DyrateError, match=r"google-bert/bert-base-uncased: .*`hf download .*--question-tok"):
        convert(source, tmp_path / "out")
    with pytest.raises(DyrateError, match=r"tokenizer\.json: has 260 tokens, .*the Q-Former embeds 12"):
        convert(source, tmp_path / "out", questions=source)
    pieces = originals.write_pieces(tmp_path / "bert")
    out = tmp_path / "out"
    command = ["convert", "--from", "llava-original", source, str(out)]
    assert main([*command, "--question-tokenizer", str(pieces)]) == 0
    text = (out / "tokenizer.json").read_text()
    (out / "tokenizer.json").write_text(text.replace('"what"', '"who"'))
    with pytest.raises(DyrateError, match=r"connector\.json: words: is '.*', but tokenizer\.json beside"):
        load(out, CPU, "float32")
