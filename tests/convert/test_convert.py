"""`dyrate convert`: what comes out of tiny checkpoints in the original layouts, and what is refused."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, LlavaConfig

from dyrate.cli import main
from dyrate.convert.convert import convert
from dyrate.convert.embeddings import drawn
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import choose_device, load
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.prompts import VICUNA, PromptStyle
from tests.convert import originals
from tests.convert.originals import ROWS, SHARDS, SIZE, TOWER, VOCABULARY, Tensors

QUESTION = "What is this?"


@pytest.fixture(scope="module")
def model() -> Any:
    return originals.llava()


@pytest.fixture
def tower(model: Any, tmp_path: Path) -> Path:
    return originals.write_tower(tmp_path / "clip", originals.original_tensors(model)[1])


def source(folder: Path, model: Any, *, fine_tuned: bool = False, **changes: Any) -> Path:
    tensors, tower = originals.original_tensors(model)
    if fine_tuned:
        tensors |= {TOWER + name: tensor for name, tensor in tower.items()}
    return originals.write_original(folder / "original", tensors, originals.config(**changes))


def logits_of(model: Any, processor: Any) -> torch.Tensor:
    """Of a prompt with an image, for the tokens of the original vocabulary."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    prompt = f"USER: <image>\n{QUESTION} ASSISTANT:"
    inputs = processor(images=[Image.fromarray(pixels)], text=[prompt], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[..., :VOCABULARY]


def same_answers(folder: Path, model: Any) -> bool:
    processor, converted = load(folder, choose_device("cpu"), "float32")
    return torch.equal(logits_of(converted, processor), logits_of(model, processor))


def test_a_llava_comes_back_bit_for_bit(model: Any, tower: Path, tmp_path: Path) -> None:
    record = convert(str(source(tmp_path, model)), tmp_path / "out", str(tower))
    assert same_answers(tmp_path / "out", model)
    assert (record["system"], record["vision_tower"], record["dtype"]) == ("llava", str(tower), "float32")
    assert set(record["ignored"]) == {"follows from rope_theta", "counts from 0 on", "CLIP's other half"}
    assert json.loads((tmp_path / "out" / "conversion.json").read_text()) == record
    assert not (tmp_path / "out" / "connector.json").exists()
    assert not [*(tmp_path / "out").glob("*.bin")]
    assert len([*(tmp_path / "out").glob("model-0000?-of-00003.safetensors")]) == 3  # two, and the tower's


def test_m3_has_its_own_tower(model: Any, tmp_path: Path) -> None:
    other = originals.original_tensors(originals.llava(seed=1))[1]
    clip = originals.write_tower(tmp_path / "clip", other)
    scales = {
        "matryoshka_vis_token_scale": [1, 4],
        "unfreeze_mm_vision_tower": True,
        "model_type": "llava_llama",
    }
    record = convert(str(source(tmp_path, model, fine_tuned=True, **scales)), tmp_path / "out", str(clip))
    assert same_answers(tmp_path / "out", model)
    assert same_answers(tmp_path / "out" / "base", model)
    assert (record["system"], record["vision_tower"]) == ("m3", "the checkpoint")


def test_the_system_can_be_said(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model, matryoshka_vis_token_scale=[1, 4])
    assert convert(str(folder), tmp_path / "out", str(tower), "llava")["system"] == "llava"
    assert not (tmp_path / "out" / "connector.json").exists()
    with pytest.raises(DyrateError, match=r"lacks .*has, for which there is no place, .*mm_projector"):
        convert(str(folder), tmp_path / "other", str(tower), "tokenpacker")


def test_the_result_is_the_same_each_time(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model)
    for name in ("a", "b"):
        convert(str(folder), tmp_path / name, str(tower))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_half_precision_stays_and_the_tower_follows(model: Any, tower: Path, tmp_path: Path) -> None:
    tensors = {n: t if "inv_freq" in n else t.half() for n, t in originals.original_tensors(model)[0].items()}
    folder = originals.write_original(tmp_path / "original", tensors, originals.config())
    convert(str(folder), tmp_path / "out", str(tower))
    stored = [t for path in (tmp_path / "out").glob("*.safetensors") for t in load_file(path).values()]
    assert {tensor.dtype for tensor in stored} == {torch.float16}


def test_new_rows_have_the_mean_and_a_little_of_the_spread_of_the_old() -> None:
    torch.manual_seed(0)
    old = torch.randn(50, 3) @ torch.tensor([[3.0, 0, 0], [1, 1, 0], [0, 0, 0.5]]) + 7
    new = drawn(old, 20_000)
    expected = torch.cov(old.double().T, correction=0)
    torch.testing.assert_close(new.mean(0), old.double().mean(0), rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.cov(new.T) / 1e-5, expected, rtol=0.05, atol=0.1)
    assert torch.equal(new, drawn(old, 20_000))


def test_the_tables_keep_their_rows_and_get_new_ones(model: Any, tower: Path, tmp_path: Path) -> None:
    convert(str(source(tmp_path, model)), tmp_path / "out", str(tower))
    _, converted = load(tmp_path / "out", choose_device("cpu"), "float32")
    old = originals.original_tensors(model)[0]
    mean = old["model.embed_tokens.weight"].mean(0)
    tables = converted.get_input_embeddings().weight, converted.lm_head.weight
    for table, name in zip(tables, ("model.embed_tokens.weight", "lm_head.weight"), strict=True):
        assert table.shape[0] == ROWS == converted.config.text_config.vocab_size
        assert torch.equal(table[:VOCABULARY], old[name])
        assert (table[VOCABULARY:] - mean).abs().max() < 0.02  # those of the head, too, as in transformers'
    assert not torch.equal(tables[0][VOCABULARY:], tables[1][VOCABULARY:])
    assert converted.generation_config.pad_token_id == VOCABULARY + 1


def test_prompt_tokens_and_pixels_are_the_originals(model: Any, tower: Path, tmp_path: Path) -> None:
    convert(str(source(tmp_path, model)), tmp_path / "out", str(tower))
    processor = load_processor(tmp_path / "out")
    known = processor.tokenizer.get_vocab()
    assert (known["<image>"], known["<pad>"], processor.tokenizer.pad_token) == (
        VOCABULARY,
        VOCABULARY + 1,
        "<pad>",
    )
    style = PromptStyle.of(processor, "llava")
    assert style.render(QUESTION, 1) == PromptStyle.of(processor, "llava", VICUNA).render(QUESTION, 1)
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A lamp."}]
    prompt = processor.apply_chat_template(
        [*chat, {"role": "user", "content": "Why?"}], add_generation_prompt=True
    )
    assert prompt.endswith(f" USER: <image>\n{QUESTION} ASSISTANT: A lamp.</s>USER: Why? ASSISTANT:")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8))
    square = Image.new("RGB", (50, 50), tuple(int(255 * x) for x in CLIPImageProcessorPil().image_mean))
    square.paste(image, (0, 15))
    own = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    expected = own(square, return_tensors="pt").pixel_values
    assert torch.equal(
        processor(images=[image], text=["<image>"], return_tensors="pt").pixel_values, expected
    )


def test_images_are_cropped_where_the_checkpoint_was_trained_so(
    model: Any, tower: Path, tmp_path: Path
) -> None:
    record = convert(str(source(tmp_path, model, image_aspect_ratio=None)), tmp_path / "out", str(tower))
    assert record["images"] == "cropped to a square"
    assert not getattr(load_processor(tmp_path / "out").image_processor, "do_pad", False)


Damage = Callable[[Tensors, dict[str, Any]], object]


def setting(**changes: Any) -> Damage:
    return lambda tensors, values: values.update(changes)


def without(*names: str) -> Damage:
    return lambda tensors, values: [tensors.pop(name) for name in names]


def holding(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return lambda tensors, values: tensors.update({name: change(tensors.get(name, torch.ones(2)))})


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([0]), float("nan"))


REFUSED: dict[str, tuple[Damage, str]] = {
    "lacking": (
        without("model.norm.weight", "model.mm_projector.2.bias"),
        r"lacks model\.mm_projector\.2\.bias, model\.norm\.weight",
    ),
    "left over": (holding("model.image_newline", lambda t: t), r"no place, model\.image_newline"),
    "lora": (holding("base_model.model.lm_head.lora_A.weight", lambda t: t), r"no place, base_model.*lora_A"),
    "shape": (
        holding("model.layers.1.mlp.up_proj.weight", lambda t: t[:40]),
        r"otherwise model\.layers\.1\.mlp\.up_proj\.weight \(\[40, 32\], expected \[48, 32\]\)",
    ),
    "integers": (holding("model.norm.weight", lambda t: t.to(torch.int8)), r"norm\.weight \(stored as I8"),
    "dtypes": (holding("model.norm.weight", torch.Tensor.half), r"several dtypes.*F16: model\.norm\.weight"),
    "NaN": (holding("model.norm.weight", nan), r"model\.norm\.weight has NaN or infinity in it, as float32"),
    "embeddings": (holding("model.embed_tokens.weight", nan), r"model\.embed_tokens\.weight has NaN"),
    "rows": (holding("lm_head.weight", lambda t: t[:-1]), r"otherwise lm_head\.weight"),
    "tokenizer": (setting(vocab_size=VOCABULARY + 1), r"otherwise lm_head\.weight"),
    "own layout": (setting(text_config={}), r"transformers' own layout already"),
    "mistral": (setting(architectures=["LlavaMistralForCausalLM"]), r"expected LlavaLlamaForCausalLM"),
    "no name": (setting(architectures=[]), r"architectures: nothing is given"),
    "type": (setting(model_type="llava_mpt"), r"model_type: 'llava_mpt' is not one of llava, llava_llama"),
    "NeXT": (setting(image_aspect_ratio="anyres"), r"image_aspect_ratio: 'anyres' is not one of pad, square"),
    "merged patches": (setting(mm_patch_merge_type="spatial_unpad"), r"mm_patch_merge_type: 'spatial_unpad'"),
    "start and end": (setting(mm_use_im_start_end=True), r"mm_use_im_start_end: True"),
    "tied": (setting(tie_word_embeddings=True), r"tie_word_embeddings: True"),
    "LLaVA v1": (setting(mm_projector_type="linear"), r"mm_projector_type is 'linear'"),
    "another width": (setting(mm_hidden_size=24), r"is 16 wide, and the checkpoint's mm_hidden_size is 24"),
    "no Q-Former": (setting(bert_type="raw_bert"), r"bert_type is 'raw_bert'"),
    "scale": (
        setting(matryoshka_vis_token_scale=[1, 9]),
        r"9 tokens: squares of 0 patches do not fill .* 2 x 2",
    ),
    "not TokenPacker": (setting(scale_factor=2), r"lacks clip_attn|lacks model\.mm_projector\.clip_attn"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_and_nothing_is_left(
    name: str, model: Any, tower: Path, tmp_path: Path
) -> None:
    damage, message = REFUSED[name]
    tensors, values = originals.original_tensors(model)[0], originals.config()
    damage(tensors, values)
    folder = originals.write_original(tmp_path / "original", tensors, values)
    with pytest.raises(DyrateError, match=message) as refusal:
        convert(str(folder), tmp_path / "out", str(tower))
    assert str(refusal.value).count("\n") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"clip", "original"}


def test_a_tokenizer_of_another_model(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model)
    other = originals.tokenizer()
    other.add_tokens(["<im_patch>"])
    other.save_pretrained(folder)
    with pytest.raises(
        DyrateError, match=f"{VOCABULARY + 1} tokens, and config.json a vocab_size of {VOCABULARY}"
    ):
        convert(str(folder), tmp_path / "out", str(tower))


def test_a_shard_twice(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model)
    (folder / "other.safetensors").write_bytes((folder / SHARDS[1]).read_bytes())
    with pytest.raises(DyrateError, match=rf"holds lm_head\.weight, and so does {SHARDS[1]}"):
        convert(str(folder), tmp_path / "out", str(tower))


def test_a_shard_that_is_cut_off(model: Any, tower: Path, tmp_path: Path) -> None:
    path = source(tmp_path, model) / SHARDS[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DyrateError, match=rf"{SHARDS[0]}: damaged or cut off"):
        convert(str(path.parent), tmp_path / "out", str(tower))


def test_no_tower(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = source(tmp_path, model, mm_vision_tower="./clip-vit-tiny")
    with pytest.raises(DyrateError, match=r"holds no vision tower.*hf download openai/clip-vit-tiny"):
        convert(str(folder), tmp_path / "out")
    with pytest.raises(DyrateError, match=r"--vision-tower nowhere/at-all: neither a folder nor"):
        convert(str(folder), tmp_path / "out", "nowhere/at-all")
    with pytest.raises(DyrateError, match=r"absent: neither a folder nor"):
        convert("absent", tmp_path / "out")


def test_eva_is_in_the_checkpoint(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model, mm_vision_tower="./model_zoo/LAVIS/eva_vit_g.pth", bert_type="qformer")
    with pytest.raises(DyrateError, match=r"lacks its EVA tower \(\./model_zoo/LAVIS/eva_vit_g\.pth\)"):
        convert(str(folder), tmp_path / "out")


def test_a_tower_without_its_number_of_heads(model: Any, tmp_path: Path) -> None:
    folder = source(tmp_path, model, fine_tuned=True, mm_vision_tower="./clip-vit-tiny")
    with pytest.raises(DyrateError, match=r"not its number of heads.*--vision-tower"):
        convert(str(folder), tmp_path / "out")


def test_the_real_tower_needs_no_folder() -> None:
    """What a fine-tuned one is taken to be, where nothing else says so."""
    vision = LlavaConfig().vision_config
    assert (vision.hidden_size, vision.image_size, vision.patch_size) == (1024, 336, 14)
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size) == (24, 16, 4096)


def test_pickles_are_refused_with_the_command_that_helps(model: Any, tower: Path, tmp_path: Path) -> None:
    folder = source(tmp_path, model)
    for name in SHARDS:
        torch.save(load_file(folder / name), folder / f"pytorch_{name.removesuffix('.safetensors')}.bin")
        (folder / name).unlink()
    torch.save({"lr": 1}, folder / "training_args.bin")
    with pytest.raises(
        DyrateError, match=r"weights are pickled \(pytorch_model-00001-of-00002\.bin"
    ) as refusal:
        convert(str(folder), tmp_path / "out", str(tower))
    _, _, command = str(refusal.value).partition("convert again: ")
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True, cwd=tmp_path)
    convert(str(folder), tmp_path / "out", str(tower))
    assert same_answers(tmp_path / "out", model)


def test_nothing_is_overwritten(model: Any, tower: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine").write_text("")
    for there in (output, output / "mine"):
        with pytest.raises(DyrateError, match=rf"{re.escape(str(there))}: is there already"):
            convert(str(source(tmp_path / "of" / there.name, model)), there, str(tower))
    assert [path.name for path in output.iterdir()] == ["mine"]


def test_an_empty_folder_and_what_a_killed_one_left(model: Any, tower: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    left = tmp_path / ".out.converting"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    (left / "base").mkdir()
    (left / "base" / "config.json").write_text("{")
    convert(str(source(tmp_path, model)), tmp_path / "out", str(tower))
    assert same_answers(tmp_path / "out", model)
    assert not left.exists()


def test_the_command(model: Any, tower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = source(tmp_path, model), tmp_path / "out"
    command = ["convert", "--from", "llava-original", str(folder), str(output), "--vision-tower", str(tower)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "left aside: 2 tensors, model.layers.0.self_attn.rotary_emb.inv_freq among them" in told
    assert told.endswith(f"llava, float32, vision tower from {tower}, images padded to a square\n{output}\n")
    assert main(command) == 2
    assert "is there already, and not empty" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    told = capsys.readouterr().out
    assert "dyrate convert --from llava-original mucai/llava-v1.5-7b-m3 checkpoints/m3" in told
    assert all(system in told for system in ("llava", "m3", "tokenpacker", "llama-vid"))
