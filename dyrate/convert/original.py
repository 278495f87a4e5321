"""The original layout of LLaVA-1.5 and of what was made from it: its configuration and language model.

Read in haotian-liu/LLaVA (`llava_arch.py`, `language_model/llava_llama.py`), and where mu-cai/matryoshka-mm,
CircleRadon/TokenPacker and dvlab-research/LLaMA-VID write more into `config.json`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict

from dyrate.convert.embeddings import appended
from dyrate.convert.tensors import Account, Output
from dyrate.errors import DyrateError
from dyrate.typed import NotEmpty, Positive, Record

System = Literal["llava", "m3", "tokenpacker", "llama-vid"]
TOWER = "model.vision_tower.vision_tower."
_TEXT_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range"),
    *("rms_norm_eps", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "bos_token_id"),
    "eos_token_id",
)


class OriginalConfig(Record):
    """The keys of `config.json` that say what the checkpoint is, beside those of the language model."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["llava", "llava_llama"]
    architectures: Annotated[list[str], NotEmpty]
    hidden_size: Positive
    vocab_size: Positive
    tie_word_embeddings: Literal[False] = False
    mm_hidden_size: Positive
    mm_projector_type: str = "linear"
    mm_vision_tower: str
    mm_vision_select_layer: int
    mm_vision_select_feature: Literal["patch", "cls_patch"] = "patch"
    mm_use_im_start_end: Literal[False] = False
    mm_patch_merge_type: Literal["flat"] = "flat"
    image_aspect_ratio: Literal["pad", "square"] = "square"
    matryoshka_vis_token_scale: list[Positive] | None = None
    scale_factor: Positive | None = None
    bert_type: str | None = None
    num_query: Positive = 32
    compress_type: str | None = None

    def system(self) -> System:
        """Which system it is, by what only its own training writes into the file."""
        if self.bert_type is not None:
            return "llama-vid"
        if self.scale_factor is not None:
            return "tokenpacker"
        return "llava" if self.matryoshka_vis_token_scale is None else "m3"


def read_config(values: Any, path: Path) -> OriginalConfig:
    """Check what `config.json` holds; a `DyrateError` names file, key and value of what is not supported."""
    if not isinstance(values, dict):
        raise DyrateError(f"{path}: expected a JSON object")
    if "text_config" in values:
        raise DyrateError(
            f"{path}: is in transformers' own layout already (it has a text_config): nothing to do"
        )
    config = OriginalConfig.of(values, lambda key: f"{path}: {key}")
    if not all(re.fullmatch("LlavaLlama(Att)?ForCausalLM", name) for name in config.architectures):
        raise DyrateError(
            f"{path}: architectures: {config.architectures}; expected LlavaLlamaForCausalLM, or LLaMA-VID's "
            "LlavaLlamaAttForCausalLM"
        )
    return config


def text_config(values: Mapping[str, Any]) -> Any:
    """Return the language model's configuration, as transformers writes it, for the original vocabulary."""
    from transformers import LlamaConfig

    return LlamaConfig(**{key: values[key] for key in _TEXT_KEYS if values.get(key) is not None})


def language_model(account: Account, config: Any, rows: int) -> Iterator[Output]:
    """Take the language model, whose tables of tokens grow to `rows` (see `embeddings`)."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    embeddings = account.take("model.embed_tokens.weight", shapes.pop("model.embed_tokens.weight"))
    head = account.take("lm_head.weight", shapes.pop("lm_head.weight"))
    count = rows - config.vocab_size
    for output, part, first in (
        ("language_model.model.embed_tokens.weight", embeddings, 0),
        ("language_model.lm_head.weight", head, count),
    ):
        yield Output(output, (part, embeddings), appended(first, count))
    for name, shape in shapes.items():
        yield Output(f"language_model.{name}", (account.take(name, shape),))
    account.ignore(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "follows from rope_theta")
