"""What training a predictor takes: by arithmetic, and the documents of `dyrate bench-training`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from dyrate.cost.flops import CONVENTIONS, count
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Work
from dyrate.speed.costs import weight_bytes
from dyrate.speed.documents import AboveZero, Document, Limits, Shape, Share, Size
from dyrate.typed import Natural, Positive, Record


@dataclass(frozen=True)
class TrainingCost:
    """Of one step of a rate predictor on a frozen model."""

    weights: int
    """Bytes of the model."""
    kept: int
    """Bytes that the forward keeps for the backward."""
    flops: int
    """Two per multiply-accumulate: all of the forward, and of the layers from K on as much again, since the
    backward of a frozen matrix is one product, not two. Attention under the mixed masks is left out.
    """

    @classmethod
    def of(cls, shape: ModelShape, layer: int, batch: int, tokens: int, number: int) -> "TrainingCost":
        """Return that of prompts with answers, so many tokens, at `number` bytes per number; K = `layer`.

        What is kept of a token in a layer from K on: 3 m (feed-forward), 5 d (queries, keys, values and what
        attention makes under whole and under mixed masks) and, in float32, 2 d (norms); see
        `dyrate.predictor_training.teacher_forcing`. Masks, logits and statistics are small beside it.
        """
        text, visual = shape.text, shape.vision.patches
        behind = text.layers - layer
        per_token = (3 * text.intermediate + 5 * text.hidden) * number + 2 * text.hidden * 4
        whole = CONVENTIONS["flops"]
        encoder = count(Work.encoder(text.layers, 1, visual), shape, whole).total
        decoder = count(Work.prefill([tokens] * text.layers), shape, whole)
        forward = encoder + decoder.total
        backward = (decoder.linear + decoder.attention) * behind // text.layers
        return cls(
            weight_bytes(shape, number, prefill=True) + text.vocabulary * text.hidden * number,
            batch * tokens * behind * per_token,
            batch * (forward + backward),
        )


class TrainingRow(Record):
    """One part of training under one load."""

    part: Literal["ranking", "rate"]
    batch: Size
    prompt: Size
    answer: Size
    """Tokens."""
    seconds: Annotated[tuple[AboveZero, ...], Strict(False), Field(min_length=1)]
    """By step, the batch being there already."""
    seconds_per_step: AboveZero
    """Their median."""
    reached: Share
    """Of the trained numbers, those that a gradient has reached."""
    peak_bytes: Natural | None
    """Weights included; None where the device does not say."""
    expected_bytes: Positive | None
    """Weights and what is kept, by arithmetic; None for rankings, which keep nothing of the model."""
    expected_flops: Positive | None
    matrix_share: AboveZero | None
    """The expected FLOPs in the time taken, as a share of what the device did at best."""


class TrainingDocument(Document):
    """A document of `dyrate bench-training`."""

    schema_name = "dyrate.bench_training"
    recipe: dict[str, Any]
    shape: Shape
    limits: Limits
    seed: int
    rows: Annotated[tuple[TrainingRow, ...], Strict(False)]
    too_large: Annotated[tuple[Size, ...], Strict(False)]
    """Batches that did not fit into memory."""
