"""What stands between tower and language model in the original layouts: LLaVA's projector, and compressors.

Each is a connector of this package whose tensors have other names there. Read in haotian-liu/LLaVA,
mu-cai/matryoshka-mm (`llava_arch.py`), CircleRadon/TokenPacker (`multimodal_projector/builder.py`,
`multimodal_encoder/clip_encoder.py`) and dvlab-research/LLaMA-VID (`llamavid_arch.py`, `qformer.py`).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.registry import build
from dyrate.convert.original import OriginalConfig, System
from dyrate.convert.tensors import Account, Output
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import CONFIG

_PACKER_LAYERS = (12, 16, 22, 23, -2)  # of CLIP ViT-L's hidden states: fixed in TokenPacker's code
_PACKER_HEAD, _BERT_HEAD = 128, 64
_SELECTED = (-2, "patch")
"""`mm_vision_select_layer` and `_feature` of all official compressors."""
_BERT = "model.vlm_att_encoder.bert"
_PROJECTOR = (("^mlp", "model.mm_projector"),)
_NAMES: dict[System, tuple[tuple[str, str], ...]] = {
    "llava": _PROJECTOR,
    "m3": _PROJECTOR,
    "tokenpacker": (
        (r"^(ln_[qkv]|[qkv]_proj)", r"\1_1"),
        ("^attention", "clip_attn"),
        ("^", "model.mm_projector."),
    ),
    "llama-vid": (
        *_PROJECTOR,
        (r"^reader\.query$", "model.vlm_att_query"),
        (r"^reader\.norm", "model.vlm_att_ln"),
        ("^query_proj", "model.vlm_att_projector"),
        ("^key_proj", "model.vlm_att_key_projector"),
        ("^value_proj", "model.vlm_att_val_projector"),
        (r"^reader\.qformer", _BERT),
        (r"embeddings\.layernorm", "embeddings.LayerNorm"),
        (r"attention\.attention", "attention.self"),
    ),
}
"""What makes of a connector's names the original ones, one after the other."""


def connector_of(account: Account, config: OriginalConfig, system: System, sizes: Sizes) -> Connector:
    """Return the connector that a checkpoint has, on the meta device, without its numbers.

    Args:
        account: the checkpoint's tensors, the connector's among them.
        config: its configuration.
        system: what it is.
        sizes: of its tower and language model.

    Raises:
        DyrateError: for a connector of another kind than the official ones, and one that does not fit an
            image.
    """
    path = account.where / CONFIG
    if system != "tokenpacker" and config.mm_projector_type != "mlp2x_gelu":
        raise DyrateError(
            f"{path}: mm_projector_type is {config.mm_projector_type!r}; transformers' LLaVA has LLaVA-1.5's "
            "mlp2x_gelu only"
        )
    selected = config.mm_vision_select_layer, config.mm_vision_select_feature
    if system != "llava" and selected != _SELECTED:
        raise DyrateError(
            f"{path}: mm_vision_select_layer and mm_vision_select_feature are {selected}; {system} has "
            f"{_SELECTED}"
        )
    try:
        name, fields = _fields(account, config, system, sizes)
        with torch.device("meta"):
            return build(name, sizes, fields)
    except (DyrateError, ValueError) as error:
        raise DyrateError(f"{path}: {error}") from None


def take_connector(account: Account, connector: Connector, system: System) -> Iterator[Output]:
    """Take a connector's tensors."""
    for name, tensor in connector.state_dict().items():
        original = name
        for pattern, replacement in _NAMES[system]:
            original = re.sub(pattern, replacement, original)
        yield Output(name, (account.take(original, tuple(tensor.shape)),))
    account.ignore(re.escape(_BERT) + r"\.embeddings\.position_ids", "counts from 0 on")


def as_projector(outputs: Iterable[Output]) -> Iterator[Output]:
    """The two layers of a connector that is LLaVA's projector, as transformers' LLaVA calls them."""
    for output in outputs:
        _, number, rest = output.name.split(".")
        yield Output(f"multi_modal_projector.linear_{int(number) // 2 + 1}.{rest}", output.parts)


def _fields(
    account: Account, config: OriginalConfig, system: System, sizes: Sizes
) -> tuple[str, dict[str, Any]]:
    match system:
        case "llava":
            return "projector", {}
        case "m3":
            scales = config.matryoshka_vis_token_scale or [1, 9, 36, 144, 576]
            return "nested_pool", {"kernel": 1, "kernels": [_kernel(scale, sizes.side) for scale in scales]}
        case "tokenpacker":
            if config.scale_factor is None:
                account.lack(f"scale_factor in {CONFIG}")
            heads = max(1, sizes.width // _PACKER_HEAD)
            return "token_packer", {
                "scale": config.scale_factor or 1,
                "layers": _PACKER_LAYERS,
                "heads": heads,
            }
        case "llama-vid":
            return "context", {"edge": _edge(config), "layer": -1, **_reader(account, config)}


def _kernel(scale: int, side: int) -> int:
    """Patches along the edge of the squares that M3 makes `scale` tokens of."""
    kernel = int((side**2 / scale) ** 0.5)
    if not kernel or side % kernel or (side // kernel) ** 2 != scale:
        raise DyrateError(
            f"{scale} tokens: squares of {kernel} patches do not fill an image of {side} x {side} with "
            "so many"
        )
    return kernel


def _edge(config: OriginalConfig) -> int:
    """Content tokens along an image's edge; 0: all its patches."""
    kind = config.compress_type
    if kind is None:
        return 0
    if grid := re.fullmatch(r"grid:(\d+)", kind):
        return int(grid[1])
    if kind == "mean":
        return 1
    raise DyrateError(f"compress_type is {kind!r}; expected null, mean, or grid: and a number")


def _reader(account: Account, config: OriginalConfig) -> dict[str, int]:
    """The sizes of LLaMA-VID's Q-Former, which only its tensors tell; of an absent one, the official size."""
    kind = str(config.bert_type)
    if "qformer_pretrain" not in kind:
        raise DyrateError(
            f"bert_type is {kind!r}; expected a pretrained Q-Former's, such as qformer_pretrain"
        )

    def rows(name: str, otherwise: int) -> int:
        found = account.left.get(f"{_BERT}.{name}")
        return (found.shape[0] if found and found.shape else 0) or otherwise

    number = re.compile(re.escape(_BERT) + r"\.encoder\.layer\.(\d+)\.")
    layers = [int(found[1]) for name in account.left if (found := number.match(name))]
    width = rows("embeddings.LayerNorm.bias", 768)
    return {
        "queries": config.num_query,
        "width": width,
        "depth": 1 + max(layers, default=11),
        "heads": max(1, width // _BERT_HEAD),
        "feed_forward": rows("encoder.layer.0.intermediate.dense.bias", 3072),
        "vocabulary": rows("embeddings.word_embeddings.weight", 30523),
    }
