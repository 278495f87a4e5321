"""What there is to know of a model family: where a model keeps the parts that token reduction hooks into."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dyrate.errors import DyrateError
from dyrate.families.tower import Tower


class Family:
    """The parts of one loaded model, and what is particular to its family; no other module knows it.

    What stands here is right for a model that keeps its parts where transformers' vision-language models do,
    and whose features, one tensor for each image, go into the prompt as they are.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    """Names of the classes of transformers that are such models."""
    text_models: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2")
    """Types of text models whose decoder layers hand unknown keywords down to the attention, and are tested.
    """
    token: ClassVar[str | None] = None
    """What a visual token stands for where that is no patch of the tower: no method can change these."""
    inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """What a prompt comes with, besides `input_ids` and `attention_mask`."""
    pixels: ClassVar[tuple[str, ...]] = ("images", "channels", "height", "width")
    """Dimensions of `pixel_values`."""
    axes: ClassVar[int] = 1
    """Dimensions of a position: where an image's tokens have several, they cannot be numbered without gaps.
    """
    answer_cue: ClassVar[str] = "ASSISTANT:"
    """What stands between a question and its answer in the family's own prompts."""

    tower: Tower
    """The vision tower, for methods that read or change it."""
    taps: int = 0
    """First decoder layers after each of which features of the image are added."""

    def __init__(self, model: Any) -> None:
        text = model.model.language_model
        self.layers: Sequence[Any] = tuple(text.layers[: text.config.num_hidden_layers])
        """Decoder layers, first to last; called with `position_embeddings` and `position_ids` as keywords."""
        self.text = text
        """The text model, called with keywords."""
        self.text_config: Any = text.config
        """The text model's config; an attention module may have been given another one."""
        self.embed: nn.Module = text.embed_tokens
        """Token ids -> states."""
        self.norm: nn.Module = text.norm
        """The last norm, before the head."""
        self.encoder_owner: Any = model.model
        """The module whose `get_image_features` encodes images; `generate()` calls it before the first
        forward.
        """
        self.encoder: nn.Module = self._encoder(model.model)
        """The vision tower, called with pixels."""
        self.image_token_id: int = model.config.image_token_id
        self.video_token_id: int | None = getattr(model.config, "video_token_id", None)

    @property
    def patchwise(self) -> bool:
        """Whether each visual token is one of the tower's patches."""
        return self.token is None

    def _encoder(self, owner: Any) -> nn.Module:
        encoder: nn.Module = owner.vision_tower
        return encoder

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine [batch, tokens, head_dim] of positions [batch, tokens], alike on all axes,
        in the dtype of `hidden`.
        """
        if self.axes > 1:
            positions = positions.expand(self.axes, *positions.shape)
        cos, sin = self.text.rotary_emb(hidden, positions)
        return cos, sin

    def patches(self, label: str) -> Tower:
        """Return the tower for a method that changes it, named by `label`.

        Raises `DyrateError` where visual tokens are not its patches, one by one.
        """
        if not self.patchwise:
            raise DyrateError(
                f"{label} works on the vision encoder's patches, and a visual token of {self.name} is "
                f"{self.token}"
            )
        return self.tower

    def attention_configs(self) -> list[Any]:
        """Return the config objects that the attention modules read `_attn_implementation` from."""
        configs = [self.text_config, *(layer.self_attn.config for layer in self.layers)]
        return list({id(config): config for config in configs}.values())

    def language_rows(
        self, layer: int, states: Tensor, queries: int, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what a decoder layer makes of input states [batch, tokens, hidden]: queries [batch, heads,
        n, D] of the last `queries` tokens, and keys [batch, kv heads, tokens, D] of all.

        `angles`: cos and sin of the tokens' positions, [batch, tokens, D].
        """
        # A study reads this module before any model is loaded, and these imports take seconds.
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        attention = self.layers[layer].self_attn
        normed = self.layers[layer].input_layernorm(states)
        last, (cos, sin) = normed[:, -queries:], angles
        query, key = (
            norm(part(given).view(*given.shape[:2], -1, attention.head_dim)).transpose(1, 2)
            for part, norm, given in (
                (attention.q_proj, getattr(attention, "q_norm", nn.Identity()), last),
                (attention.k_proj, getattr(attention, "k_norm", nn.Identity()), normed),
            )
        )
        query, _ = apply_rotary_pos_emb(query, query, cos[:, -queries:], sin[:, -queries:])
        _, key = apply_rotary_pos_emb(key, key, cos, sin)
        return query, key

    def final_norm(self, states: Tensor) -> Tensor:
        """Return states of the decoder [..., hidden] as its last norm leaves them."""
        found: Tensor = self.norm(states)
        return found

    def question(self, instruction: str) -> str:
        """Return the question of an instruction's text, without what asks for the answer."""
        return instruction.strip().removesuffix(self.answer_cue).strip()

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Make ready for a prompt, the keywords of whose forward these are.

        Raises `DyrateError` for inputs that would be read as something else.
        """
        token, videos = self.video_token_id, inputs.get("pixel_values_videos") is not None
        if videos or (token is not None and bool((inputs["input_ids"] == token).any())):
            raise DyrateError(
                "videos are not supported under token reduction, whose visual tokens are those of images "
                f"({'pixel_values_videos' if videos else f'input_ids holds {token}'}); pass "
                "frames as images"
            )

    def positions(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return the positions of a batch as `generate()` numbers them, for a forward that gets `inputs`, the
        attention mask among them: LongTensor [batch, columns], or with axes in front.
        """
        mask: Tensor = inputs["attention_mask"]
        return (mask.long().cumsum(dim=1) - 1).clamp_min(0)

    def features(self, encoded: Any) -> list[Tensor]:
        """Return the visual features of each image [n, hidden], in prompt order, of the encoder's output."""
        return list(encoded.pooler_output)

    def images(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the pixels of each image, no matter what it was encoded with; None where they cannot be told
        apart. `inputs` are the arguments of `get_image_features`, which made these features.
        """
        return list(inputs["pixel_values"])

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return of each image where its tokens stand: LongTensor [n, 3], on the CPU, of picture, row and
        column. An image that is given whole and in tiles is several pictures, numbered from 0.

        Row and column are -1 for a class token, the column for a newline, which ends its row.
        """
        raise NotImplementedError

    def shown(self, places: Sequence[Tensor]) -> Tensor:
        """Return where the tokens of a prompt's one image stand in it: LongTensor [tokens, 2], row and column
        in the finest picture of it, -1 for tokens that are not in that one. `places` are those of `places`.
        """
        tokens = torch.cat(list(places))
        drawn = (tokens[:, 0] == tokens[:, 0].max()) & (tokens[:, 1:] >= 0).all(dim=1)
        return tokens[:, 1:].masked_fill(~drawn[:, None], -1)

    def sources(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Tensor]:
        """Return of each image, of so many tokens, what made them: LongTensor [n, 1 + patches], on the CPU,
        of the picture that the tower saw, numbered over all images, and of the tower's tokens; -1 for a
        newline.
        """
        found, start = [], 0
        for image, count in enumerate(tokens):
            start += self.tower.cropped
            index = torch.arange(start, start + count)
            found.append(torch.stack([torch.full_like(index, image), index], dim=1))
            start += count
        return found

    def encoder_macs(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> int:
        """Return the multiply-accumulates of encoding, where images are not all of one number of patches."""
        raise NotImplementedError

    def injected(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Take what is added after layers out of the text model's keywords: for each of the first `taps`
        layers FloatTensor [batch, columns, hidden], 0 where there is no image.
        """
        return []


def raster(rows: int, columns: int, picture: int = 0) -> Tensor:
    """LongTensor [rows x columns, 3]: a picture's places in raster order."""
    of_pictures = torch.tensor([picture]), torch.arange(rows), torch.arange(columns)
    return torch.cartesian_prod(*of_pictures)


def matrices(module: nn.Module) -> int:
    """Return the multiply-accumulates of a module's matrices and kernels for one token."""
    return sum(weight.numel() for weight in module.parameters() if weight.dim() >= 2)
