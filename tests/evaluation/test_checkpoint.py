"""Checkpoints: what is loaded is all there, of one piece and finite, or one line says what is not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint as checkpoints
from dyrate.evaluation.checkpoint import choose_device, content_hash, load, load_model

CPU = torch.device("cpu")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

Damage = Callable[[Path], Any]
Tensors = dict[str, torch.Tensor]


def weights(change: Callable[[Tensors], Tensors | None]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file(change(tensors) or tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def without(part: str) -> Damage:
    return weights(lambda tensors: {name: value for name, value in tensors.items() if part not in name})


def renamed(rename: Callable[[str], str]) -> Damage:
    return weights(lambda tensors: {rename(name): value for name, value in tensors.items()})


def number(part: str, value: float) -> Damage:
    def change(tensors: Tensors) -> None:
        next(tensors[name] for name in tensors if part in name).view(-1)[0] = value

    return weights(change)


def values(file: str, *path: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        part = content
        for key in path:
            part = part[key]
        part.update(changes)
        (folder / file).write_text(json.dumps(content))

    return damage


def text(**changes: Any) -> Damage:
    return values("config.json", "text_config", **changes)


def cut(file: str) -> Damage:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-60])


def sharded(after: Damage) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        file_of = {name: SHARDS["language_model" in name] for name in tensors}
        for shard in SHARDS:
            save_file({n: t for n, t in tensors.items() if file_of[n] == shard}, folder / shard)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
        after(folder)

    return damage


def extra(name: str) -> Damage:
    return weights(lambda tensors: {**tensors, name: torch.ones(2, 32)})


def tied(folder: Path) -> None:
    values("config.json", tie_word_embeddings=True)(folder)
    text(tie_word_embeddings=True)(folder)
    without("lm_head")(folder)


def write(file: str, content: str) -> Damage:
    return lambda folder: (folder / file).write_text(content)


def damaged(checkpoint: Path, tmp_path: Path, damage: Damage) -> Path:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    damage(folder)
    return folder


REFUSED: dict[str, tuple[Damage, str]] = {
    "projector": (without("projector"), r"lacks model.multi_modal_projector.* and 1 more"),
    "untied head": (without("lm_head"), r"lacks lm_head.weight"),
    "layer more": (text(num_hidden_layers=3), r"lacks model.language_model.layers.2.* and 6 more"),
    "layer less": (text(num_hidden_layers=1), r"beyond the model, model.language_model.layers.1"),
    "biases": (text(mlp_bias=True), r"lacks .*mlp.down_proj.bias"),
    "vision layer": (
        values("config.json", "vision_config", num_hidden_layers=2),
        r"lacks model.vision_tower",
    ),
    "PEFT": (renamed(lambda name: f"base_model.model.{name}"), r"adapters merged into it"),
    "LoRA": (extra("model.language_model.layers.0.mlp.up_proj.lora_A.weight"), r"beyond the model, .*lora_A"),
    "adapter": (write("adapter_config.json", "{}"), r"holds an adapter"),
    "shape": (text(intermediate_size=128), r"another shape .*\[32, 64\] stored, \[32, 128\] by config.json"),
    "vocabulary": (text(vocab_size=269), r"another shape lm_head.weight"),
    "integers": (weights(lambda t: {n: v.to(torch.int8) for n, v in t.items()}), r"stored as I8"),
    "NaN": (number("q_proj", float("nan")), r"NaN or infinity, as float32, in .*q_proj.weight"),
    "infinity": (number("projector", float("inf")), r"in model.multi_modal_projector"),
    "cut": (cut(WEIGHTS), r"damaged or cut off: model.safetensors"),
    "shard absent": (sharded(lambda f: (f / SHARDS[1]).unlink()), rf"index.json: names {SHARDS[1]}, not in"),
    "shard cut": (sharded(cut(SHARDS[1])), rf"damaged or cut off: {SHARDS[1]}"),
    "shard elsewhere": (
        sharded(values(INDEX, "weight_map", **{"lm_head.weight": "../other.safetensors"})),
        r"names ../other.safetensors, not in",
    ),
    "no index": (sharded(lambda f: (f / INDEX).unlink()), r"neither model.safetensors nor"),
    "index": (sharded(write(INDEX, "{}")), r"weight_map should name a file"),
    "default sizes": (values("config.json", text_config=None), r"describes a model of 6,755,359,776 param"),
    "too many layers": (
        text(num_hidden_layers=10**9),
        r"num_hidden_layers is 1000000000, but there are only",
    ),
    "rope": (text(rope_parameters={"rope_theta": float("nan")}), r"rope_parameters.rope_theta is nan"),
    "rope infinite": (text(rope_theta=float("inf")), r"config.json: text_config.rope_theta is inf"),
    "epsilon": (text(rms_norm_eps=-1.0), r"config.json: text_config.rms_norm_eps is -1.0, expected more"),
    "width": (text(hidden_size=-32), r"text_config.hidden_size is -32, expected more than 0"),
    "heads": (text(num_attention_heads=3), r"config.json: .*hidden size \(32\) is not a multiple"),
    "activation": (text(hidden_act="foo"), r"config.json: KeyError: 'foo'"),
    "feature layer": (values("config.json", vision_feature_layer=9), r"vision encoder cannot read an image"),
    "quantized": (values("config.json", quantization_config={"quant_method": "fp8"}), r"quantized weights"),
    "text only": (values("config.json", model_type="llama"), r"'llama' is no vision-language model"),
    "family": (values("config.json", model_type="vipllava"), r"no model family adapter"),
    "text family": (text(model_type="gpt2"), r"text model of type 'gpt2' is not supported"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config.json: no such file"),
    "end": (values("generation_config.json", eos_token_id="x"), r"eos_token_id is 'x', expected a number"),
    "no patch size": (
        values("processor_config.json", patch_size=None),
        r"no patch_size; by config.json .* 14",
    ),
    "no strategy": (
        values("processor_config.json", vision_feature_select_strategy=None),
        r"no vision_feature_select_strategy; by config.json it is 'default'",
    ),
    "class token": (
        values("processor_config.json", num_additional_image_tokens=0),
        r"writes 3 image tokens for an image, and the model makes 4 features",
    ),
    "deviation": (values("processor_config.json", "image_processor", image_std=[0, 0, 0]), r"grey image"),
    "image size": (
        values("processor_config.json", "image_processor", crop_size={"height": 56, "width": 56}),
        r"Input image size \(56\*56\) doesn't match model \(28\*28\)",
    ),
    "image token": (values("config.json", image_token_index=5), r"'<image>' has the id 4 .* it is 5"),
    "tokens": (
        values("tokenizer.json", "model", "vocab", zz=261),
        r"tokenizer is larger than the embedding: token 'zz' has the id 261, .* vocab_size of 261",
    ),
    "tokenizer": (values("tokenizer.json", "model", type="foo"), r"its processor or tokenizer: Exception"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"none of tokenizer.json, .* is there"),
    "no padding": (
        values("tokenizer_config.json", pad_token=None, eos_token=None),
        r"neither pad_token nor eos_token",
    ),
    **{
        file: (cut(file), rf"{file}: not JSON")
        for file in ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json")
    },
}


@pytest.mark.parametrize(("damage", "message"), REFUSED.values(), ids=REFUSED)
def test_a_damaged_checkpoint_is_one_line(
    damage: Damage, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = damaged(checkpoint, tmp_path, damage)
    with pytest.raises(DyrateError, match=message) as error:
        load(folder, CPU, "float32")
    assert "\n" not in str(error.value)


RUNS: dict[str, Damage] = {
    "as it is": lambda folder: None,
    "shards": sharded(lambda folder: None),
    "tied head": tied,
    "old buffers": extra("language_model.model.layers.0.self_attn.rotary_emb.inv_freq"),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "another tool's file": write("trainer_state.json", '{"loss": NaN}'),
}


@pytest.mark.parametrize("damage", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_transformers_lets_a_checkpoint_lack_loads(
    damage: Damage, dtype: str, checkpoint: Path, tmp_path: Path
) -> None:
    _, model = load(damaged(checkpoint, tmp_path, damage), CPU, dtype)
    assert model.dtype == getattr(torch, dtype)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_number_beyond_float16_is_refused_there_alone(checkpoint: Path, tmp_path: Path) -> None:
    folder = damaged(checkpoint, tmp_path, number("q_proj", 1e6))
    load_model(folder, CPU, "bfloat16")
    with pytest.raises(DyrateError, match=r"as float16, in .*q_proj.weight: .*try bfloat16"):
        load_model(folder, CPU, "float16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta", "not usable here"),
        ("mps", "not usable here"),
        ("xpu", "not usable here"),
        ("cpu:3", "one CPU device"),
        ("cuda:99", "CUDA devices"),
        ("gpu", "is no device"),
        ("cuda:-1", "is no device"),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(DyrateError, match=f"--device {name!r}.*{message}"):
        choose_device(name)


@pytest.fixture
def cached(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, Path]:
    """A checkpoint whose weights count as large, its hash, and the one entry of the cache."""
    plain = content_hash(checkpoint)
    monkeypatch.setattr(checkpoints, "_CACHE_ABOVE", 100_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    assert content_hash(folder) == plain
    (entry,) = (tmp_path / "cache/dyrate/sha256").iterdir()
    return folder, plain, entry


@pytest.mark.parametrize("content", ["", "0" * 64, "no digest", "\xff"])
def test_a_damaged_entry_of_the_hash_cache_is_made_anew(
    content: str, cached: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plain, entry = cached
    whole = entry.read_text()
    entry.write_text(content)
    assert content_hash(folder) == plain
    assert entry.read_text() == whole
    read: list[Path] = []
    monkeypatch.setattr(checkpoints, "file_hash", lambda path: read.append(path) or whole[:64])
    content_hash(folder)
    assert WEIGHTS not in {path.name for path in read}


def test_a_file_rewritten_at_the_same_size_and_time_is_hashed_again(cached: tuple[Path, str, Path]) -> None:
    folder, plain, _ = cached
    before = (folder / WEIGHTS).stat()
    number("q_proj", 0.5)(folder)
    os.utime(folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / WEIGHTS).stat().st_size == before.st_size
    assert content_hash(folder) != plain


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_home_that_cannot_be_written_costs_only_time(
    variable: str, cached: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plain, _ = cached
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv(variable, "/dev/null/nowhere")
    assert content_hash(folder) == plain


def test_weights_that_cannot_be_read_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = damaged(checkpoint, tmp_path, lambda f: (f / WEIGHTS).unlink())
    (folder / WEIGHTS).symlink_to(tmp_path / "gone")
    with pytest.raises(DyrateError, match=r"model.safetensors: cannot be read"):
        content_hash(folder)
