"""VisionPulse: each decode step sees as many visual tokens as one layer's attention on the image asks for."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.attention_rows import Attention
from dyrate.errors import DyrateError
from dyrate.ranking import top
from dyrate.reduction import DecodeView, Needs, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class VisionPulse(ReductionMethod):
    """At every decode step choose anew what the deeper layers see; the prompt and the KV cache stay whole.

    The share kept is the newest query's attention mass on the image at the anchor layer, with its logits
    divided by `temperature`: that of the head with the most, clipped to [`least`, `most`]. The official code
    (xxhhbbbb/VisionPulse) has two rules for what follows:

    `tokens` (`modeling_qwen3_vl.py`): floor(share x V) tokens, at least one, ranked by the mean of the heads'
    logits. The anchor itself sees only these, and so do all layers after it.
    `blocks` (`triton/`): the cache is cut into blocks of `block` positions, and only those that hold nothing
    but visual tokens may go. A block counts for its best key: the mass is that of such blocks in the softmax
    of all blocks' largest logits. ceil(share x V / block) of them, at least one, stay, ranked by their mean
    weight over heads, for the layers after the anchor; the anchor itself sees all. (Of LLaVA-1.5's 576 tokens
    8 blocks are whole: with a tenth, 64 of their tokens stay, and the 64 that no whole block holds.)

    The anchor there is layer 17, counted from 0, of models that all have 36 layers (Qwen3-VL and InternVL3.5,
    4B and 8B); by default it is floor(17 / 36 x depth), which is 15 of 32. Of the settings there "10pct" is
    our default, and "5pct" is temperature 0.1 and shares from 0.01 to 0.05. A fixed budget is `least` =
    `most`. Differences: tokens are ranked by the logarithm of attention, which orders as logits do, but for
    what a head gives less than 1e-38; the official code takes one sample at a time.
    """

    name: ClassVar[str] = "visionpulse"
    title: ClassVar[str] = "VisionPulse"
    paper: ClassVar[str] = "arXiv:2605.31457"
    examples = (
        {"least": 0.1, "most": 0.7},
        {"anchor": 4, "temperature": 2.0, "least": 0.03, "most": 0.97},
        {"unit": "blocks", "block": 4, "least": 0.1, "most": 0.9, "temperature": 3.0},
        {"unit": "blocks", "block": 3, "anchor": 0, "least": 0.0, "most": 0.55},
    )
    keeps_everything = (
        {"least": 1.0, "most": 1.0},
        {"least": 1.0, "most": 1.0, "unit": "blocks", "block": 5},
    )

    unit: str = hyperparameter(
        "what is kept: `tokens`, or `blocks`", default="tokens", choices=("tokens", "blocks")
    )
    anchor: int | None = hyperparameter(
        "the layer whose attention decides; null: that of 17 / 36 of the depth", default=None, minimum=0
    )
    temperature: float = hyperparameter("divides the logits of the mass", default=0.4, minimum=0.01)
    least: float = hyperparameter("smallest share that is kept", default=0.05, minimum=0, maximum=1)
    most: float = hyperparameter("largest share that is kept", default=0.1, minimum=0, maximum=1)
    block: int = hyperparameter("positions of a block", default=64, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise DyrateError(f"VisionPulse(least={self.least}, most={self.most}): expected least <= most")

    def needs(self, depth: int) -> Needs:
        """Whole rows of the anchor's attention: before it runs, or of the layer that has run."""
        anchor = 17 * depth // 36 if self.anchor is None else self.anchor
        if self.unit == "tokens":
            return Needs(decode=(anchor,), ahead=(anchor,), whole_rows=True, capturable=True)
        return Needs(decode=(anchor + 1,), attention=(anchor,), whole_rows=True, capturable=True)

    def decode(self, view: DecodeView) -> Tensor:
        """Choose for this step."""
        if self.unit == "tokens":
            return self._tokens(view, view.attention[view.layer])
        return self._blocks(view, view.attention[view.layer - 1])

    def _tokens(self, view: DecodeView, attention: Attention) -> Tensor:
        share = attention.mass_at(self.temperature)[..., 1].amax(dim=1).clamp(self.least, self.most)
        view.expect_finite("share", share)
        count = (share * view.visual_tokens).long().clamp_min(1)
        smallest = torch.finfo(attention.head_scores.dtype).tiny
        return top(attention.head_scores.clamp_min(smallest).log().mean(dim=1), count, view.present)

    def _blocks(self, view: DecodeView, attention: Attention) -> Tensor:
        rows = attention.whole
        assert rows is not None
        places, (batch, heads, slots) = rows.places, rows.weights.shape
        blocks = (slots - 1) // self.block + 1
        # The slots in the order of their tokens, so that a block is a piece; where there is none, a spare.
        spare = blocks * self.block
        order = torch.where(places < 0, spare, places)
        order = places.new_full((batch, spare + 1), slots).scatter(
            1, order, torch.arange(slots, device=order.device).expand_as(order)
        )[:, None, :spare]
        weights = pad(rows.weights, (0, 1)).gather(2, order.expand(-1, heads, -1))
        largest = weights.unflatten(2, (blocks, self.block)).amax(dim=-1)
        shares = (largest.log() / self.temperature).softmax(dim=-1)

        of_visual = places.gather(1, rows.visual_slots.clamp_min(0)).clamp_min(0) // self.block
        visual = torch.zeros_like(shares[:, 0], dtype=torch.long)
        whole = visual.scatter_add(1, of_visual, view.present.long()) == self.block
        mass = (shares * whole[:, None]).sum(dim=-1).amax(dim=1).clamp(self.least, self.most)
        view.expect_finite("share", mass)
        count = (mass * view.visual_tokens / self.block).ceil().long().clamp_min(1)
        stays = ~whole | top(shares.mean(dim=1), count, whole)
        return stays.gather(1, of_visual) & view.present
