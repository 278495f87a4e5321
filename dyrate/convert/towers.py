"""Vision towers: CLIP's, in the checkpoint or in a folder of its own, and LLaMA-VID's EVA ViT-g."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyrate.convert.original import TOWER, OriginalConfig
from dyrate.convert.tensors import Account, Output, stored_in
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import CONFIG, complaints

_KNOWN = "clip-vit-large-patch14-336"
"""LLaVA-1.5's tower, whose sizes transformers' `LlavaConfig` has by default."""
_EVA_HEAD, _EVA_PATCH = 88, 14
_EVA_NAMES = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.", "encoder.layers."),
    ("norm", "layer_norm"),
    ("attn.proj", "self_attn.projection"),
    ("attn.qkv", "self_attn.qkv"),
)


class Tower(NamedTuple):
    """A vision tower on its way."""

    config: Any
    outputs: list[Output]
    origin: str
    """Where its weights come from."""
    layer: int
    """Which of its hidden states the projector reads."""
    pixels: Path | None
    """The folder whose `preprocessor_config.json` says how its images are made, if there is one."""


def take_tower(account: Account, config: OriginalConfig, folder: Path | None, wanted: str) -> Tower:
    """Take the vision tower from the checkpoint, which has one if it was fine-tuned, else from `folder`.

    Args:
        account: the checkpoint's tensors.
        config: its configuration.
        folder: of a CLIP model or vision tower, None if there is none.
        wanted: what the tower is called, for complaints.

    Raises:
        DyrateError: where neither has it, or its sizes are not known.
    """
    if account.has(f"{TOWER}blocks."):
        return _eva(account, config)
    if account.has(TOWER):
        vision = _clip_config(folder, config, wanted)
        outputs = list(_clip(account, vision, f"{TOWER}vision_model."))
        account.ignore(re.escape(TOWER) + r"vision_model\.embeddings\.position_ids", "counts from 0 on")
        return Tower(vision, outputs, "the checkpoint", config.mm_vision_select_layer, folder)
    if re.search("eva|lavis", wanted.lower()):
        raise DyrateError(
            f"{account.where}: the checkpoint lacks its EVA tower ({wanted}); it is not taken from elsewhere"
        )
    if folder is None:
        raise DyrateError(
            f"{account.where}: the checkpoint holds no vision tower, and {wanted} is neither a folder nor in "
            f"the hub's local cache: `hf download {_hub_id(wanted)}`, or name a folder with --vision-tower"
        )
    vision, tensors = _clip_config(folder, config, wanted), stored_in(folder)
    apart = Account(tensors, folder)
    prefix = "vision_model." if apart.has("vision_model.") else ""
    outputs = list(_clip(apart, vision, prefix))
    apart.ignore(re.escape(prefix) + r"embeddings\.position_ids", "counts from 0 on")
    apart.ignore(r"text_model\..*|text_projection\..*|visual_projection\..*|logit_scale", "CLIP's other half")
    apart.settle()
    account.ignored |= apart.ignored
    return Tower(vision, outputs, str(folder), config.mm_vision_select_layer, folder)


def _hub_id(name: str) -> str:
    """The hub id that a training script's name of the tower, often a folder of that machine, stands for."""
    return name if re.fullmatch(r"[\w-]+/[\w.-]+", name) else f"openai/{Path(name).name}"


def _clip_config(folder: Path | None, config: OriginalConfig, wanted: str) -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig

    if folder is not None:
        with complaints(str(folder / CONFIG)):
            vision = CLIPVisionConfig.from_pretrained(folder)
    elif Path(wanted).name == _KNOWN:
        vision = LlavaConfig().vision_config
    else:
        raise DyrateError(
            f"the vision tower {wanted}: the checkpoint has its weights, but not its number of heads; name a "
            f"folder with its {CONFIG} by --vision-tower"
        )
    if vision.hidden_size != config.mm_hidden_size:
        raise DyrateError(
            f"the vision tower {wanted} is {vision.hidden_size} wide, and the checkpoint's mm_hidden_size is "
            f"{config.mm_hidden_size}"
        )
    return vision


def _clip(account: Account, config: Any, prefix: str) -> Iterator[Output]:
    from transformers import CLIPVisionModel

    with torch.device("meta"):
        state = CLIPVisionModel(config).state_dict()
    for full, tensor in state.items():
        name = full.removeprefix("vision_model.")
        part = account.take(prefix + name, tuple(tensor.shape))
        yield Output(f"vision_tower.vision_model.{name}", (part,))


def _eva(account: Account, config: OriginalConfig) -> Tower:
    """EVA ViT-g as transformers has it in BLIP-2, without the last layer, whose input LLaMA-VID reads.

    Its queries and values have biases and its keys none, which is one bias in transformers. BLIP-2's norm
    after the last layer, which a LLaVA does not use, changes nothing here: LLaMA-VID's is its connector's.
    """
    from transformers import Blip2VisionConfig

    width = config.mm_hidden_size
    number = re.compile(re.escape(TOWER) + r"blocks\.(\d+)\.")
    depth = 1 + max(int(found[1]) for name in account.left if (found := number.match(name)))
    feeding = account.left.get(f"{TOWER}blocks.0.mlp.fc1.bias")
    inner = feeding.shape[0] if feeding else 0
    shapes: dict[str, tuple[int | None, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, None, width),
        "patch_embed.proj.weight": (width, 3, _EVA_PATCH, _EVA_PATCH),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(depth):
        shapes[f"blocks.{block}.attn.qkv.weight"] = (3 * width, width)
        for name, shape in {
            "norm1": (width,),
            "norm2": (width,),
            "attn.proj": (width, width),
            "mlp.fc1": (inner, width),
            "mlp.fc2": (width, inner),
        }.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    taken = {name: account.take(TOWER + name, shape) for name, shape in shapes.items()}
    outputs = [Output(_eva_name(name), (part,)) for name, part in taken.items()]
    for block in range(depth):
        biases = tuple(account.take(f"{TOWER}blocks.{block}.attn.{name}_bias", (width,)) for name in "qv")
        outputs.append(Output(_eva_name(f"blocks.{block}.attn.qkv.bias"), biases, _with_key_bias))
    for kind, filled in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
        part = taken["blocks.0.norm1.bias"]  # of the norm's size
        outputs.append(Output(f"vision_tower.post_layernorm.{kind}", (part,), filled))
    side = round((taken["pos_embed"].shape[1] - 1) ** 0.5)
    vision = Blip2VisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // _EVA_HEAD),
        image_size=side * _EVA_PATCH,
        patch_size=_EVA_PATCH,
        num_channels=3,  # which is fixed there, and a field of all other towers
    )
    return Tower(vision, outputs, "the checkpoint", -1, None)


def _eva_name(name: str) -> str:
    for old, new in _EVA_NAMES:
        name = name.replace(old, new)
    return f"vision_tower.{name}"


def _with_key_bias(query: Tensor, value: Tensor) -> Tensor:
    return torch.cat([query, torch.zeros_like(query), value])
