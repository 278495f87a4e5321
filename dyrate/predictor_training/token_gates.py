"""From rate logits and rankings to gates: how open each visual token is to the query of each step.

The masks M_0, M_1, ... of the rates 0, 1/K_r, ... keep the best-ranked tokens; a gate is their mixture by the
probabilities of the rates. Hard probabilities give gates of 0 and 1: exactly what stepwise pruning keeps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dyrate.predictor_training.recipe import Estimator, Recipe
from dyrate.ranking import kept_counts, rounded_share


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
    drawn: Tensor | None = None
    """LongTensor [batch], for `scaled_features`: the step of each row that multiplies and learns."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the probabilities [batch, T, K_r] of the rates; one-hot where masks are whole."""
        soft = self.mixture(logits)
        if self.estimator in ("soft", "scaled_features"):
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


def gates(probabilities: Tensor, scores: Tensor, valid: Tensor, recipe: Recipe) -> Gates:
    """Mix the masks of all rates, step after step.

    Args:
        probabilities: FloatTensor [batch, T, K_r] of the rates i / K_r; gradients flow into them.
        scores: FloatTensor [batch, T, V]: the ranking of each step, higher is better.
        valid: BoolTensor [batch, V]: which entries stand for a visual token.
        recipe: what becomes of dropped tokens. At decode, `evict` drops them for good, `select` chooses anew
            among those held at every step; `prune_prefill`: step 0 drops tokens, from layer K on and for
            every query; `monotone`: a step may use no more tokens than the one before, as ever with `evict`.

    Where tokens are held or not decides about later rankings, which no gradient passes; there the most
    probable rate counts.
    """
    scores = scores.masked_fill(~valid[:, None], float("-inf"))
    soft = _survival(probabilities, valid, recipe)
    sure = _survival(hard(probabilities.detach()), valid, recipe)
    first = _ranks(scores[:, 0])
    opened = soft[:, 0].gather(1, first) * valid
    held = sure[:, 0].gather(1, first).bool() & valid
    prefill = opened if recipe.prune_prefill else None
    if recipe.mode == "evict":
        steps = [opened]
        for step in range(1, scores.shape[1]):
            ranks = _ranks(scores[:, step].masked_fill(~held, float("-inf")))
            steps.append(steps[-1] * soft[:, step].gather(1, ranks))
            held = held & sure[:, step].gather(1, ranks).bool()
        return Gates(torch.stack(steps, dim=1), prefill)
    if recipe.monotone:
        # P(min(n, m) > r) = P(n > r) P(m > r): at most as many tokens as at every step before.
        soft = soft.cumprod(dim=1)
    ranks = _ranks(scores[:, 1:].masked_fill(~held[:, None], float("-inf")))
    later = opened[:, None] * soft[:, 1:].gather(2, ranks)
    return Gates(torch.cat([opened[:, None], later], dim=1), prefill)


def retained(gated: Tensor, valid: Tensor) -> Tensor:
    """Return the share of the visual tokens that gates [batch, ..., V] leave open, [batch, ...]."""
    counts = valid.sum(dim=1).clamp_min(1)
    return gated.sum(dim=-1) / counts.view(-1, *[1] * (gated.dim() - 2))


def _survival(probabilities: Tensor, valid: Tensor, recipe: Recipe) -> Tensor:
    """Return FloatTensor [batch, T, V]: the probability that the token of rank r stays, P(n > r).

    Rates keep ever fewer tokens, so those that keep rank r are the first of them: a cumulative sum, which
    equals the sum over all masks without making them.
    """
    visual_tokens, rates = valid.sum(dim=1), probabilities.shape[-1]
    rate = torch.arange(rates, device=valid.device).double() / rates
    counts = torch.stack([kept_counts(visual_tokens, r) for r in rate], dim=1)
    counts = torch.maximum(counts, rounded_share(visual_tokens, recipe.minimum)[:, None])
    ranks = torch.arange(valid.shape[1], device=valid.device)
    keeping = (counts[:, :, None] > ranks).sum(dim=1)  # [batch, V]: how many rates keep rank r
    total = torch.cat([torch.zeros_like(probabilities[..., :1]), probabilities.cumsum(dim=-1)], dim=-1)
    staying = total.gather(2, keeping[:, None].expand(-1, probabilities.shape[1], -1))
    if not recipe.prune_prefill:
        # Nothing goes at step 0; its rate is predicted only for the history's sake.
        staying = torch.cat([torch.ones_like(staying[:, :1]), staying[:, 1:]], dim=1)
    return staying


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each of `scores` [..., V], 0 for the highest; the lower index wins a tie."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
