"""FLOPs of counted work, under conventions with a name: papers print percentages of very different sums."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from dyrate.cost.shapes import ModelShape, TextShape
from dyrate.cost.work import Phases, Work


@dataclass(frozen=True)
class Convention:
    """What counts, and how much."""

    name: str
    about: str
    ffn_matrices: int
    """Matrices of a feed-forward layer: Llama's gated one has three, the much copied formula two."""
    per_mac: int
    """A multiplication with its addition counts once or twice."""
    whole: bool
    """Whether the vision encoder, the projector, the head, and the method's own arithmetic count as well."""


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            Convention(
                "fastv_2ndm",
                "4nd² + 2n²d + 2ndm per layer, a multiply-accumulate counted once: FastV's formula, and that "
                "of VisionZip and DivPrune",
                ffn_matrices=2,
                per_mac=1,
                whole=False,
            ),
            Convention(
                "gated_3ndm",
                "4nd² + 2n²d + 3ndm per layer, a multiply-accumulate counted once: the same with the third "
                "matrix that Llama's feed-forward layers have",
                ffn_matrices=3,
                per_mac=1,
                whole=False,
            ),
            Convention(
                "flops",
                "two per multiply-accumulate, of everything: vision encoder, projector, layers, head, and "
                "what the method itself computes",
                ffn_matrices=3,
                per_mac=2,
                whole=True,
            ),
        )
    }
)
CLASSES = 3
"""Token classes of a prompt that attention is summed by, in a product of its own."""
SCOPES = MappingProxyType(
    {
        "prefill": "the prompt alone",
        "cached": "the prompt and the decode steps, with a KV cache",
        "no_cache": "the prompt and the decode steps, each of which runs the whole sequence again",
    }
)


@dataclass(frozen=True)
class Flops:
    """A sum by where it was spent."""

    vision: int = 0
    projector: int = 0
    linear: int = 0
    """Matrices of the decoder's layers."""
    attention: int = 0
    """Products of queries with keys, and of weights with values."""
    head: int = 0
    method: int = 0
    """What a reduction method computes on top."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def scope(phases: Phases, name: str) -> Work:
    """Return the work that counts in one of `SCOPES`."""
    if name == "prefill":
        return phases.prefill
    return phases.prefill + (phases.decode if name == "cached" else phases.recompute)


def count(work: Work, shape: ModelShape, convention: Convention) -> Flops:
    """Return what `work` costs a model of this shape."""
    text, vision, per_mac = shape.text, shape.vision, convention.per_mac
    if not convention.whole:
        # As printed: no grouped heads, and nothing but the decoder's layers.
        per_token = 4 * text.hidden**2 + convention.ffn_matrices * text.hidden * text.intermediate
        return Flops(
            linear=per_mac * per_token * sum(work.tokens),
            attention=per_mac * 2 * text.hidden * sum(work.pairs),
        )
    width = text.heads * text.head_dim
    projector = vision.hidden * text.hidden + text.hidden**2
    encoder_layer = 4 * vision.hidden**2 + 2 * vision.hidden * vision.intermediate
    return Flops(
        vision=per_mac
        * (
            work.patches * vision.patch_inputs * vision.hidden
            + vision.layers * (work.encoder_tokens * encoder_layer + work.encoder_pairs * 2 * vision.hidden)
            + work.encoding
            - work.encoder_saved
        ),
        projector=per_mac * (work.patches - work.unprojected) * projector,
        linear=per_mac * sum(work.tokens) * (text.projections + 3 * text.hidden * text.intermediate),
        attention=per_mac * 2 * width * sum(work.pairs),
        head=per_mac * work.logits * text.hidden * text.vocabulary,
        method=per_mac
        * (
            work.scored * width
            + work.scored_prompt * text.heads * CLASSES
            + text.hidden * (work.queries * width + work.keys * text.kv_width // 2)
            + work.own_macs
        ),
    )


def kv_bytes(lengths: Iterable[int], text: TextShape, bytes_per_number: int) -> int:
    """Return the bytes of a cache that holds `lengths[l]` tokens in layer l, summed over rows."""
    return sum(lengths) * text.kv_width * bytes_per_number
