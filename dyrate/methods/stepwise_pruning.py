"""Pruning anew at every step of generation: what DyRate and its ablations share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from dyrate.ranking import kept_counts, rounded_share, top
from dyrate.reduction import DecodeView, Needs, PrefillView, ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class StepwisePruning(ReductionMethod, ABC):
    """Drop a share of the visual tokens from layer K on, asked for again at every step.

    Rates and scores are functions of tensors, the same at every step, as `Needs.capturable` says.

    At step t a row has a rate R_t and every visual token a score. Of V tokens n_t = round((1 - R_t) V) are
    wanted, at least round(`minimum` V), and with `monotone` at most n_(t-1).

    Step 0, the prefill, with `prune_prefill`: the n_0 best tokens go on into layer K, the others are gone.
    Step t >= 1, by `mode`, always among the tokens that layer K still holds:
    `select` has layers >= K attend to the n_t best of them at this step only;
    `evict` removes all but the n_t best from the KV caches of layers >= K, for good, in rows where at least
    `evict_at_least` can go; `none` leaves them alone.

    Subclasses give the rates, and the scores where these are not the attention of layer K-1.
    """

    layer: int = hyperparameter("prune layer K: the first layer without the dropped tokens", minimum=1)
    _: KW_ONLY
    mode: str = hyperparameter(
        "at decode, `select` tokens for each step, `evict` them for good, or do neither: `none`",
        default="select",
        choices=("select", "evict", "none"),
        label=str,
    )
    prune_prefill: bool = hyperparameter("whether tokens are dropped at prefill, too", default=True)
    minimum: float = hyperparameter(
        "smallest share of the visual tokens that is kept", default=0.0, minimum=0, maximum=1
    )
    monotone: bool = hyperparameter("whether a step never wants more tokens than the last", default=False)
    evict_at_least: int = hyperparameter(
        "`evict` waits until so many tokens of a row can go", default=1, minimum=1
    )

    @abstractmethod
    def step_rates(self, view: View) -> Tensor:
        """Return each row's rate at this step (float64 [B], 0..1); asked once per step, in order."""

    def step_scores(self, view: View) -> Tensor:
        """Return the scores of this step (FloatTensor [B, V]), asked after `step_rates`: higher is better.

        Those of tokens that layer K does not hold mean nothing.
        """
        return view.attention[self.layer - 1].head_scores.mean(dim=1)

    def needs(self, depth: int) -> Needs:
        """The attention of layer K-1, at every step."""
        return Needs(
            prefill=(self.layer,),
            decode=() if self.mode == "none" else (self.layer,),
            decode_mode="evict" if self.mode == "evict" else "select",
            attention=(self.layer - 1,),
            capturable=True,
        )

    def prefill(self, view: PrefillView) -> Tensor | None:
        """Keep the n_0 best; the rate is asked for even where nothing is dropped, for the steps to come."""
        wanted = self._wanted(view)
        if not self.prune_prefill:
            if self.monotone:
                view.state["wanted"] = view.visual_tokens
            return None
        return self._best(view, wanted)

    def decode(self, view: DecodeView) -> Tensor:
        """Keep the n_t best of what this layer holds, or, while an eviction is too small, all of it."""
        wanted = self._wanted(view)
        keep = self._best(view, wanted)
        # Where none can go, the best are all: only more than one need be waited for.
        if self.mode == "evict" and self.evict_at_least > 1:
            waits = view.visual_counts - wanted < self.evict_at_least
            keep |= view.present & waits[:, None]
        return keep

    def _wanted(self, view: View) -> Tensor:
        """LongTensor [B]: n_t."""
        rates = self.step_rates(view)
        view.expect_finite("rate", rates)
        counts = kept_counts(view.visual_tokens, rates)
        if self.minimum:
            counts = counts.maximum(rounded_share(view.visual_tokens, self.minimum))
        if self.monotone:
            counts = counts.minimum(view.state["wanted"]) if view.step else counts
            view.state["wanted"] = counts
        return counts

    def _best(self, view: View, count: Tensor) -> Tensor:
        """BoolTensor [B, V]: the `count` [B] best of the tokens that this layer holds."""
        return top(self.step_scores(view), count, view.present)


def scheduled(rates: Sequence[float], view: View) -> Tensor:
    """Return each row's rate at this step (float64 [B]) from rates by step, the last one for all later steps.

    To be asked once per step, from the prefill on: the state counts the steps.
    """
    if not view.step:
        table = torch.tensor(rates, dtype=torch.float64, device=view.present.device)
        view.state["schedule"] = table.expand(len(view.present), -1)
        view.state["scheduled"] = torch.zeros_like(view.visual_tokens)
    at, table = view.state["scheduled"], view.state["schedule"]
    view.state["scheduled"] = at + 1
    return table.gather(1, at.clamp_max(table.shape[1] - 1)[:, None]).squeeze(1)
