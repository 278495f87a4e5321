"""The sizes of a model that its cost depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextShape:
    """A Llama-like decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def projections(self) -> int:
        """Numbers in the query, key, value and output matrices of a layer."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def kv_width(self) -> int:
        """Numbers that a layer's cache holds per token."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Numbers in all weights: layers with two norms, embedding, final norm and head; no biases."""
        layer = self.projections + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden


@dataclass(frozen=True)
class VisionShape:
    """A CLIP-like encoder, and the projector of two linear layers behind it.

    Of families whose images differ in size it is the encoder's sizes alone: what encoding costs, a run says.
    """

    layers: int
    hidden: int
    intermediate: int
    patches: int
    """Visual tokens per image, 1 where it may be of any size; the encoder itself has one more, its class
    token.
    """
    patch_inputs: int
    """Numbers in a patch: channels x height x width."""


@dataclass(frozen=True)
class ModelShape:
    """A LLaVA-like model."""

    text: TextShape
    vision: VisionShape

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "ModelShape":
        """Return the shape that `dataclasses.asdict` gave, perhaps read from a file."""
        return cls(TextShape(**values["text"]), VisionShape(**values["vision"]))

    @classmethod
    def of(cls, config: Any) -> "ModelShape":
        """Return the shape of a transformers config of a family that is supported."""
        text, vision = config.text_config, config.vision_config
        patch, *_ = _pair(vision.patch_size)
        rows, columns = (side // patch for side in _pair(getattr(vision, "image_size", patch)))
        channels = getattr(vision, "num_channels", None) or vision.in_channels
        frames: int = getattr(vision, "temporal_patch_size", 1)
        return cls(
            TextShape(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                intermediate=text.intermediate_size,
                heads=text.num_attention_heads,
                kv_heads=text.num_key_value_heads,
                head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
                vocabulary=text.vocab_size,
            ),
            VisionShape(
                layers=getattr(vision, "num_hidden_layers", None) or vision.depth,
                hidden=vision.hidden_size,
                intermediate=vision.intermediate_size,
                patches=rows * columns,
                patch_inputs=channels * frames * patch**2,
            ),
        )


def _pair(sides: Any) -> tuple[int, int]:
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return height, width


_CLIP_L_336 = VisionShape(layers=24, hidden=1024, intermediate=4096, patches=576, patch_inputs=588)
LLAVA = {
    "LLaVA-1.5-7B": ModelShape(TextShape(32, 4096, 11008, 32, 32, 128, 32064), _CLIP_L_336),
    "LLaVA-1.5-13B": ModelShape(TextShape(40, 5120, 13824, 40, 40, 128, 32064), _CLIP_L_336),
}
"""The models of the paper, as their published configs have them."""
