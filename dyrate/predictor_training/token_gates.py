"""From rate logits and rankings to gates: how open each visual token is to the query of each step.

The masks M_0, M_1, ... of the rates 0, 1/K_r, ... keep the best-ranked tokens; a gate is their mixture by the
probabilities of the rates. Hard probabilities give gates of 0 and 1: exactly what stepwise pruning keeps.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dyrate.errors import DyrateError
from dyrate.ranking import kept_counts, rounded_share

Mode = Literal["evict", "select"]
Estimator = Literal["straight_through", "soft", "soft_gradient"]
"""`straight_through`: whole masks, with the gradients that small changes of them would have. `soft`: mixtures
of masks. `soft_gradient`: whole masks, with the gradients of attention under their mixtures.
"""


@dataclass(frozen=True)
class Pruning:
    """What becomes of the visual tokens that a rate drops, as in the method that will run the predictor."""

    mode: Mode = "select"
    """At decode, `evict` drops tokens for good, `select` chooses anew among those held at every step."""
    prune_prefill: bool = True
    """Whether step 0 drops tokens, from layer K on and for every query."""
    minimum: float = 0.0
    """Share of the visual tokens that stays at any rate."""
    monotone: bool = False
    """Whether a step may use no more tokens than the one before; with `evict` it never does."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise DyrateError(f"mode={self.mode!r}: expected one of {', '.join(get_args(Mode))}")
        if not 0 <= self.minimum <= 1:
            raise DyrateError(f"minimum={self.minimum!r}: expected a share, from 0 to 1")


@dataclass(frozen=True, eq=False)
class Gates:
    """How open the visual tokens are, from 0 (dropped) to 1, FloatTensors."""

    steps: Tensor
    """[batch, T, V]: to the query of each step."""
    prefill: Tensor | None
    """[batch, V]: to every query before step 0; None where prefill drops nothing."""
    relaxed: "Gates | None" = None
    """The mixtures whose gradients count instead, with `soft_gradient`."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Gumbel-Softmax (arXiv:1611.01144) over the rates, with the noise of one batch."""

    noise: Tensor
    """FloatTensor [batch, T, K_r]: standard Gumbel noise."""
    temperature: float
    estimator: Estimator = "soft_gradient"

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the probabilities [batch, T, K_r] of the rates; one-hot but for `soft`."""
        soft = self.mixture(logits)
        if self.estimator == "soft":
            return soft
        # The value is exactly one-hot: (soft - soft) is zero, and only it carries the gradient.
        return hard(soft) + (soft - soft.detach())

    def mixture(self, logits: Tensor) -> Tensor:
        """Return the probabilities before any of them is made whole."""
        return ((logits + self.noise) / self.temperature).softmax(dim=-1)


def hard(logits: Tensor) -> Tensor:
    """Return the most probable rate of `logits` [..., K_r] as a one-hot FloatTensor; the lower wins a tie."""
    return one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise on the CPU, so that every device trains on the same noise."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -(-(uniform.clamp(1e-12, 1 - 1e-12)).log()).log().float()


def gates(probabilities: Tensor, scores: Tensor, valid: Tensor, pruning: Pruning) -> Gates:
    """Mix the masks of all rates, step after step.

    Args:
        probabilities: FloatTensor [batch, T, K_r] of the rates i / K_r; gradients flow into them.
        scores: FloatTensor [batch, T, V]: the ranking of each step, higher is better.
        valid: BoolTensor [batch, V]: which entries stand for a visual token.
        pruning: what becomes of dropped tokens.

    Where tokens are held or not decides about later rankings, which no gradient passes; there the most
    probable rate counts.
    """
    scores = scores.masked_fill(~valid[:, None], float("-inf"))
    soft = _survival(probabilities, valid, pruning)
    sure = _survival(hard(probabilities.detach()), valid, pruning)
    if not pruning.prune_prefill:
        # Nothing goes at step 0; its rate is predicted only for the history's sake.
        soft = torch.cat([torch.ones_like(soft[:, :1]), soft[:, 1:]], dim=1)
        sure = torch.cat([torch.ones_like(sure[:, :1]), sure[:, 1:]], dim=1)
    first = _ranks(scores[:, 0])
    opened = soft[:, 0].gather(1, first) * valid
    held = sure[:, 0].gather(1, first).bool() & valid
    prefill = opened if pruning.prune_prefill else None
    if pruning.mode == "evict":
        steps = [opened]
        for step in range(1, scores.shape[1]):
            ranks = _ranks(scores[:, step].masked_fill(~held, float("-inf")))
            steps.append(steps[-1] * soft[:, step].gather(1, ranks))
            held = held & sure[:, step].gather(1, ranks).bool()
        return Gates(torch.stack(steps, dim=1), prefill)
    if pruning.monotone:
        # P(min(n, m) > r) = P(n > r) P(m > r): at most as many tokens as at every step before.
        soft = soft.cumprod(dim=1)
    ranks = _ranks(scores[:, 1:].masked_fill(~held[:, None], float("-inf")))
    later = opened[:, None] * soft[:, 1:].gather(2, ranks)
    return Gates(torch.cat([opened[:, None], later], dim=1), prefill)


def retained(gated: Tensor, valid: Tensor) -> Tensor:
    """Return the share of the visual tokens that gates [batch, ..., V] leave open, [batch, ...]."""
    counts = valid.sum(dim=1).clamp_min(1)
    return gated.sum(dim=-1) / counts.view(-1, *[1] * (gated.dim() - 2))


def _survival(probabilities: Tensor, valid: Tensor, pruning: Pruning) -> Tensor:
    """Return FloatTensor [batch, T, V]: the probability that the token of rank r stays, P(n > r).

    Rates keep ever fewer tokens, so those that keep rank r are the first of them: a cumulative sum, which
    equals the sum over all masks without making them.
    """
    visual_tokens, rates = valid.sum(dim=1), probabilities.shape[-1]
    rate = torch.arange(rates, device=valid.device).double() / rates
    counts = torch.stack([kept_counts(visual_tokens, r) for r in rate], dim=1)
    counts = torch.maximum(counts, rounded_share(visual_tokens, pruning.minimum)[:, None])
    ranks = torch.arange(valid.shape[1], device=valid.device)
    keeping = (counts[:, :, None] > ranks).sum(dim=1)  # [batch, V]: how many rates keep rank r
    total = torch.cat([torch.zeros_like(probabilities[..., :1]), probabilities.cumsum(dim=-1)], dim=-1)
    return total.gather(2, keeping[:, None].expand(-1, probabilities.shape[1], -1))


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each of `scores` [..., V], 0 for the highest; the lower index wins a tie."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
