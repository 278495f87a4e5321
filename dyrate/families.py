"""Where each supported model family keeps the parts that token reduction hooks into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel, Blip2VisionConfig, Blip2VisionModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dyrate.errors import DyrateError

# Rotary embeddings whose frequencies stay the same however long the prompt is.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# Vision towers that give every image the same number of features, in the order of its patches.
TOWERS = ("clip_vision_model", "siglip_vision_model")

# LLaMA-VID's tower, EVA ViT-g, which transformers has as BLIP-2's, and finds for a LLaVA only if it is told.
AutoModel.register(Blip2VisionConfig, Blip2VisionModel, exist_ok=True)
_WITH_CLASS_TOKEN = ("clip_vision_model", Blip2VisionConfig.model_type)

# Text models whose decoder layers hand unknown keywords down to the attention function, and are tested here.
TEXT_MODELS = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class Family:
    """The parts of one loaded model, and what is particular to its family; no other module knows it."""

    name: str
    layers: Sequence[Any]
    """Decoder layers, first to last; called with `position_embeddings` and `position_ids` as keywords."""
    text_config: Any
    """The text model's config; an attention module may have been given another one."""
    embed: nn.Module
    """Token ids -> states."""
    norm: nn.Module
    """The last norm, before the head."""
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(hidden_states, position_ids [batch, tokens]) -> (cos, sin), each [batch, tokens, head_dim]."""
    encoder_owner: Any
    """The module whose `get_image_features` encodes images; `generate()` calls it before the first forward.
    """
    vision_tower: nn.Module
    """Called with `pixel_values` [images, channels, height, width]."""
    projector: nn.Module
    """Features of the tower [images, n, width] -> visual features [images, n, hidden]."""
    feature_layer: Any
    """The config's `vision_feature_layer`: one or several of the tower's hidden states."""
    patch_size: int
    cropped: int
    """Tokens of the tower, from the first on, that are no features."""
    image_token_id: int
    connector: Any = None
    """A `Connector` in the projector's place, whose visual tokens stand for no patch each; else None."""
    answer_cue: str = "ASSISTANT:"
    """What stands between a question and its answer in the family's own prompts."""

    def connector_macs(self) -> int:
        """Return the multiply-accumulates of the connector's last call."""
        projector: Any = self.projector
        macs: int = projector.macs()
        return macs

    def attention_configs(self) -> list[Any]:
        """Return the config objects that the attention modules read `_attn_implementation` from."""
        configs = [self.text_config, *(layer.self_attn.config for layer in self.layers)]
        return list({id(config): config for config in configs}.values())

    @property
    def tower_type(self) -> str:
        """The vision tower's model type, empty if it does not say."""
        return getattr(getattr(self.vision_tower, "config", None), "model_type", "")

    @property
    def tower_layers(self) -> Sequence[Any]:
        """Layers of the vision tower, first to last."""
        tower: Any = self.vision_tower
        layers: Sequence[Any] = getattr(tower, "vision_model", tower).encoder.layers
        return layers

    @property
    def projected_layer(self) -> int | None:
        """The layer of the tower, counted from 0, whose output the projector reads; None for several."""
        states = self.feature_layer
        if not isinstance(states, int):
            return None
        return (states if states >= 0 else len(self.tower_layers) + 1 + states) - 1

    @property
    def class_tokens(self) -> int:
        """Tokens that the vision tower puts before those of the patches."""
        return int(self.tower_type in _WITH_CLASS_TOKEN)

    def tower_rows(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled queries, and the keys, of a tower layer (FloatTensor [images, heads, tokens, D])
        for its input states [images, tokens, width].
        """
        block = self.tower_layers[layer]
        attention, normed = block.self_attn, block.layer_norm1(states)
        query, key = (
            part(normed).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj)
        )
        return query * attention.scale, key

    def tower_attention(
        self, layer: int, states: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the first half of a tower layer: states [images, tokens, width] after its attention, and the
        keys of that (FloatTensor [images, heads, tokens, D]).

        `bias` [images, tokens] is added to the logits of each key.
        """
        block = self.tower_layers[layer]
        attention, normed = block.self_attn, block.layer_norm1(states)
        query, key, value = (
            part(normed).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mask = None if bias is None else bias[:, None, None].to(query.dtype)
        found = scaled_dot_product_attention(query, key, value, mask, scale=attention.scale)
        return states + attention.out_proj(found.transpose(1, 2).flatten(2)), key

    def tower_feed_forward(self, layer: int, states: Tensor) -> Tensor:
        """Return the second half of a tower layer, for states [images, tokens, width] after its attention."""
        block = self.tower_layers[layer]
        found: Tensor = states + block.mlp(block.layer_norm2(states))
        return found

    def tower_macs(self, layer: int, attending: int, feeding: int) -> int:
        """Return the multiply-accumulates of a tower layer on an image, with so many tokens in its attention
        and so many in its feed-forward half.
        """
        block = self.tower_layers[layer]
        first, second = (
            sum(weight.numel() for weight in half.parameters() if weight.dim() == 2)
            for half in (block.self_attn, block.mlp)
        )
        width = block.self_attn.embed_dim
        found: int = attending * first + 2 * attending**2 * width + feeding * second
        return found

    def tower_norm(self, states: Tensor) -> Tensor:
        """Return states of the vision tower [..., width] as its last norm leaves them."""
        tower: Any = self.vision_tower
        found: Tensor = getattr(tower, "vision_model", tower).post_layernorm(states)
        return found

    def language_rows(
        self, layer: int, states: Tensor, queries: int, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what a decoder layer makes of input states [batch, tokens, hidden]: queries [batch, heads,
        n, D] of the last `queries` tokens, and keys [batch, kv heads, tokens, D] of all.

        `angles`: cos and sin of the tokens' positions, [batch, tokens, D].
        """
        attention = self.layers[layer].self_attn
        normed = self.layers[layer].input_layernorm(states)
        last, (cos, sin) = normed[:, -queries:], angles
        query, key = (
            part(given).view(*given.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part, given in ((attention.q_proj, last), (attention.k_proj, normed))
        )
        query, _ = apply_rotary_pos_emb(query, query, cos[:, -queries:], sin[:, -queries:])
        _, key = apply_rotary_pos_emb(key, key, cos, sin)
        return query, key

    def final_norm(self, states: Tensor) -> Tensor:
        """Return states of the decoder [..., hidden] as its last norm leaves them."""
        found: Tensor = self.norm(states)
        return found

    def features(self, encoded: Any) -> list[Tensor]:
        """Return the visual features of each image [n, hidden], in prompt order, of the encoder's output."""
        return list(encoded.pooler_output)

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Return rows and columns of the patches of images [images, channels, height, width]."""
        height, width = pixels.shape[-2:]
        return height // self.patch_size, width // self.patch_size

    def positions(self, grid: tuple[int, int], places: int) -> Tensor:
        """LongTensor [places, 2]: rows and columns of an image's tokens; -1 for a class token, in front."""
        rows, columns = grid
        index = torch.arange(places) - (places - rows * columns)
        found = torch.stack([index // columns, index % columns], dim=1)
        return found.masked_fill((index < 0)[:, None], -1)

    def question(self, instruction: str) -> str:
        """Return the question of an instruction's text, without what asks for the answer."""
        return instruction.strip().removesuffix(self.answer_cue).strip()


def _llava(model: Any) -> Family:
    text = model.model.language_model
    return Family(
        name="llava",
        layers=tuple(text.layers[: text.config.num_hidden_layers]),
        text_config=text.config,
        embed=text.embed_tokens,
        norm=text.norm,
        rotary=text.rotary_emb,
        encoder_owner=model.model,
        vision_tower=model.model.vision_tower,
        projector=model.model.multi_modal_projector,
        feature_layer=model.config.vision_feature_layer,
        patch_size=model.config.vision_config.patch_size,
        cropped=int(model.config.vision_feature_select_strategy == "default"),
        image_token_id=model.config.image_token_id,
        connector=getattr(model.model.multi_modal_projector, "connector", None),
    )


_ADAPTERS: dict[str, Callable[[Any], Family]] = {"LlavaForConditionalGeneration": _llava}


def family_of(model: nn.Module) -> Family:
    """Return the parts of `model`; a `DyrateError` names the supported families and text models otherwise."""
    kind = type(model)
    adapter = _ADAPTERS.get(vars(kind).get("family_name", kind.__name__))
    if adapter is None:
        raise DyrateError(
            f"no model family adapter for {type(model).__name__}; supported: {', '.join(sorted(_ADAPTERS))}. "
            "A wrapped model (PEFT, DDP) must be unwrapped first"
        )
    config: Any = model.config
    config = config.get_text_config()
    if config.model_type not in TEXT_MODELS:
        raise DyrateError(
            f"{type(model).__name__} with a text model of type {config.model_type!r} is not supported; "
            f"supported text models: {', '.join(TEXT_MODELS)}"
        )
    family = adapter(model)
    config = family.text_config
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    if set(layer_types) != {"full_attention"} or (
        config.model_type == "mistral" and config.sliding_window is not None
    ):
        raise DyrateError(
            "the text model uses sliding-window attention; supported is full attention in every layer"
        )
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise DyrateError(
            f"the text model uses rotary embeddings of type {rope_type!r}, whose frequencies depend on the "
            f"length of the batch; supported: {', '.join(ROPE_TYPES)}"
        )
    # The first of each part, as models are spread by parts: all of them take a millisecond of every prompt.
    whole: Any = model
    ends = whole.get_input_embeddings(), whole.get_output_embeddings()
    parts = (*family.layers, family.vision_tower, family.projector, *ends)
    kinds = {next(part.parameters()).device.type for part in parts}
    if "meta" in kinds and len(kinds) > 1:  # all of it there is a model without weights, to look at
        raise DyrateError(
            "parts of the model are on no device, as there was no room for them: load it onto devices that "
            "hold all of it (device_map={'': device}, or max_memory)"
        )
    return family
