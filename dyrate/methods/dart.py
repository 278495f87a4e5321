"""DART: keep a few pivots, and of the other visual tokens those that duplicate none of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.errors import DyrateError
from dyrate.methods.budget import RateOrBudget
from dyrate.ranking import kept_counts, top
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class DART(RateOrBudget):
    """Keep pivots and, for each, the visual tokens least like it.

    On entering layer K: pivots are the 4 visual tokens, and the 4 instruction tokens, whose keys in layer K-1
    have the largest L1 norm over all heads, turned by RoPE. One pivot after the other takes m // 8 of the
    visual tokens that no other has taken and that are no pivots: those with the smallest cosine between their
    states and its own, after the language model's last norm. m = round((1 - R) V). What is taken stays, and
    so do the visual pivots: 4 + 8 (m // 8) tokens, 132 of 576 at m = 128; all where m = V. They keep their
    positions.

    So does the official code (ZichenWen1/DART, `get_retained_image_token` of
    `llava/model/language_model/modeling_llama_self.py`, of which a copy was read), where m is
    `max_num_trunction`; only without that its `reduction_ratio` has an effect. There pivots take turns in the
    order of a Python set of prompt columns, here visual before instruction ones, each by falling norm. It
    fails on instructions of fewer than 4 tokens, and where too few are left to take, and is for batches of
    one row. Several images of a row are one set of tokens here.
    """

    name: ClassVar[str] = "dart"
    title: ClassVar[str] = "DART"
    paper: ClassVar[str] = "arXiv:2502.11494"
    examples = (
        {"layer": 2, "rate": 0.4},
        {"layer": 3, "rate": 0.3, "visual_pivots": 2, "instruction_pivots": 1},
        {"layer": 1, "rate": 0.6, "visual_pivots": 3, "instruction_pivots": 0},
    )
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )
    rate: float = hyperparameter(
        "R, of which the number of tokens that pivots take is made", default=0.778, minimum=0, maximum=1
    )
    visual_pivots: int = hyperparameter("visual tokens that are pivots", default=4, minimum=0)
    instruction_pivots: int = hyperparameter("instruction tokens that are pivots", default=4, minimum=0)

    def __post_init__(self) -> None:
        """Check that there are pivots."""
        super().__post_init__()
        if not self.visual_pivots + self.instruction_pivots:
            raise DyrateError(
                "DART(visual_pivots=0, instruction_pivots=0): at least one of them must not be 0"
            )

    def needs(self, depth: int) -> Needs:
        """The keys of layer K-1."""
        return Needs(prefill=(self.layer,), keys=(self.layer - 1,))

    def prefill(self, view: PrefillView) -> Tensor:
        """Let the pivots take turns."""
        states, their_states = (
            normalize(view.final_norm(part).float(), dim=-1)
            for part in (view.states, view.instruction_states)
        )
        before = self.layer - 1
        pivots, taking, keep = _largest(view.keys(before), view.present, self.visual_pivots)
        theirs, there, _ = _largest(view.instruction_keys(before), view.instruction, self.instruction_pivots)
        turns = torch.cat([_picked(states, pivots), _picked(their_states, theirs)], dim=1)
        alike = turns @ states.transpose(1, 2)  # [B, pivots, V]
        view.expect_finite("cosines", alike)
        view.count_macs(int(view.visual_counts.sum()) * turns.shape[1] * states.shape[-1])

        wanted = kept_counts(view.visual_tokens, self.rate_at(view))
        if self.budget is not None:  # which the visual pivots are part of
            wanted = torch.where(
                wanted < view.visual_tokens, (wanted - self.visual_pivots).clamp_min(0), wanted
            )
        share = wanted // (self.visual_pivots + self.instruction_pivots)
        taking = torch.cat([taking, there], dim=1)
        for turn in range(turns.shape[1]):
            count = torch.where(taking[:, turn], share, 0)
            keep = keep | top(-alike[:, turn], count, view.present & ~keep)
        return keep | (view.present & (wanted >= view.visual_tokens)[:, None])


def _largest(keys: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of the largest keys [B, n, kv heads, D], largest first (LongTensor [B, at most
    count]), whether each is one of `among` (BoolTensor [B, n]), and those that are as BoolTensor [B, n].
    """
    norms = keys.float().abs().sum(dim=(2, 3))
    chosen = top(norms, torch.full(norms.shape[:1], count, device=norms.device), among)
    index = norms.masked_fill(~chosen, -1).argsort(dim=1, descending=True, stable=True)[:, :count]
    return index, chosen.gather(1, index), chosen


def _picked(states: Tensor, index: Tensor) -> Tensor:
    """Pick entries [B, n] of states [B, tokens, hidden]."""
    return states.gather(1, index[:, :, None].expand(-1, -1, states.shape[-1]))
