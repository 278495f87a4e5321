"""What stands between tower and language model in the original layouts: LLaVA's projector, and compressors.

Read in CircleRadon/TokenPacker (`multimodal_projector/builder.py`), dvlab-research/LLaMA-VID
(`llamavid_arch.py`, `qformer.py`) and mu-cai/matryoshka-mm (`llava_arch.py`). A compressor's tensors keep
their names, without `model.` or `model.mm_projector.`.
"""

import re
from collections.abc import Iterator
from typing import Any

from dyrate.convert.original import OriginalConfig, System
from dyrate.convert.tensors import Account, Output
from dyrate.errors import DyrateError

_EVA_WIDTH = 1408  # of the tower that InstructBLIP's Q-Former was trained with
_PACKER_LAYERS = (12, 16, 22, 23, -2)  # of CLIP ViT-L's hidden states: fixed in TokenPacker's code
_PACKER_HEAD = 128
_Shapes = dict[str, tuple[int | None, ...]]


def projector(account: Account, config: OriginalConfig, system: System) -> tuple[list[Output], list[Output]]:
    """Take the projector: outputs of LLaVA's own, and of the connector.

    TokenPacker's ends in LLaVA's two layers (`mlp`), which are in both.
    """
    if system != "tokenpacker":
        if config.mm_projector_type != "mlp2x_gelu":
            raise DyrateError(
                f"{account.where}: mm_projector_type is {config.mm_projector_type!r}; transformers' LLaVA "
                "has LLaVA-1.5's mlp2x_gelu only"
            )
        connector = list(_connector(account, "model.", _two_layers("mm_projector.", config)))
        found = [*_renamed(connector, "mm_projector.")]
        return found, connector if system == "llama-vid" else []
    connector = list(_connector(account, "model.mm_projector.", _token_packer(config)))
    return [*_renamed(connector, "mlp.")], connector


def _renamed(outputs: list[Output], prefix: str) -> Iterator[Output]:
    """The two layers among a connector's outputs, as transformers' LLaVA calls them."""
    for output in outputs:
        number, _, rest = output.name.removeprefix(prefix).partition(".")
        if output.name.startswith(prefix):
            yield Output(f"multi_modal_projector.linear_{int(number) // 2 + 1}.{rest}", output.parts)


def _connector(account: Account, prefix: str, shapes: _Shapes) -> Iterator[Output]:
    for name, shape in shapes.items():
        yield Output(name, (account.take(prefix + name, shape),))


def _linear(name: str, width: int, out: int) -> _Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> _Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _two_layers(prefix: str, config: OriginalConfig) -> _Shapes:
    width, hidden = config.mm_hidden_size, config.hidden_size
    return {**_linear(f"{prefix}0", width, hidden), **_linear(f"{prefix}2", hidden, hidden)}


def _token_packer(config: OriginalConfig) -> _Shapes:
    width = config.mm_hidden_size
    shapes: _Shapes = {
        "q_proj_1.weight": (width, width),
        "clip_attn.in_proj_weight": (3 * width, width),
        "clip_attn.in_proj_bias": (3 * width,),
        **_linear("clip_attn.out_proj", width, width),
        **_two_layers("mlp.", config),
    }
    for name in "kv":
        shapes |= _linear(f"{name}_proj_1.0", (len(_PACKER_LAYERS) - 1) * width, width)
        shapes |= _linear(f"{name}_proj_1.2", width, width)
    for name in "qkv":
        shapes |= _norm(f"ln_{name}_1", width)
    return shapes


def context(account: Account, config: OriginalConfig) -> Iterator[Output]:
    """Take what makes LLaMA-VID's context token: a Q-Former, its norm and queries, and three matrices."""
    kind = str(config.bert_type)
    if "qformer" not in kind:
        raise DyrateError(
            f"{account.where}: bert_type is {kind!r}; expected a Q-Former's, such as qformer_pretrain"
        )
    width, pretrained = config.mm_hidden_size, "pretrain" in kind
    seen = _EVA_WIDTH if pretrained else width
    query = account.left.get("model.vlm_att_query")
    inner = query.shape[-1] if query else 768
    depths = re.compile(r"model\.vlm_att_encoder\.bert\.encoder\.layer\.(\d+)\.")
    depth = max((int(found[1]) for name in account.left if (found := depths.match(name))), default=11) + 1
    shapes: _Shapes = {
        "vlm_att_query": (1, config.num_query, inner),
        **_linear("vlm_att_projector", inner, width),
        **_linear("vlm_att_key_projector", width, width),
        **_linear("vlm_att_val_projector", width, config.hidden_size),
        **(_norm("vlm_att_ln", seen) if pretrained else {}),
        **(_linear("vlm_att_bert_proj", width, seen) if seen != width else {}),
        "vlm_att_encoder.bert.embeddings.word_embeddings.weight": (None, inner),
        "vlm_att_encoder.bert.embeddings.position_embeddings.weight": (None, inner),
        **_norm("vlm_att_encoder.bert.embeddings.LayerNorm", inner),
    }
    for layer in range(depth):
        shapes |= _qformer_layer(
            f"vlm_att_encoder.bert.encoder.layer.{layer}", inner, None if layer % 2 else seen
        )
    yield from _connector(account, "model.", shapes)
    account.ignore(r"model\.vlm_att_encoder\.bert\.embeddings\.position_ids", "counts from 0 on")


def _qformer_layer(place: str, width: int, seen: int | None) -> _Shapes:
    """BERT's layer with a second feed-forward half, for queries, and attention to states of width `seen`."""
    shapes: _Shapes = {}
    for attention, keys in (("attention", width), ("crossattention", seen)):
        if keys is not None:
            shapes |= _linear(f"{place}.{attention}.self.query", width, width)
            shapes |= _linear(f"{place}.{attention}.self.key", keys, width)
            shapes |= _linear(f"{place}.{attention}.self.value", keys, width)
            shapes |= _linear(f"{place}.{attention}.output.dense", width, width)
            shapes |= _norm(f"{place}.{attention}.output.LayerNorm", width)
    for half in ("", "_query"):
        shapes |= _linear(f"{place}.intermediate{half}.dense", width, 4 * width)
        shapes |= _linear(f"{place}.output{half}.dense", 4 * width, width)
        shapes |= _norm(f"{place}.output{half}.LayerNorm", width)
    return shapes


def connector_record(config: OriginalConfig, system: System, side: int) -> dict[str, Any] | None:
    """Return what `connector.json` says: the connector, and its fields as this package calls them.

    Args:
        config: the original one.
        system: the system.
        side: patches along an image's edge.

    Raises:
        DyrateError: for a scale whose squares do not fill an image, and a `compress_type` of no known kind.
    """
    match system:
        case "m3":
            scales = config.matryoshka_vis_token_scale or [1, 9, 36, 144, 576]
            kernels = [_divisor(int((side**2 / scale) ** 0.5), side, f"{scale} tokens") for scale in scales]
            return {"connector": "nested_pool", "fields": {"kernel": 1, "kernels": kernels}}
        case "tokenpacker":
            scale = _divisor(config.scale_factor or 0, side, "scale_factor")
            heads = max(1, config.mm_hidden_size // _PACKER_HEAD)
            fields = {"scale": scale, "layers": list(_PACKER_LAYERS), "heads": heads}
            return {"connector": "token_packer", "fields": fields}
        case "llama-vid":
            return {"connector": "context", "fields": {"edge": _edge(config), "queries": config.num_query}}
    return None


def _divisor(edge: int, side: int, what: str) -> int:
    if edge < 1 or side % edge:
        raise DyrateError(f"{what}: squares of {edge} patches do not fill an image of {side} x {side}")
    return edge


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
