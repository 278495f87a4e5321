"""What training minimises: the losses of answers under a predictor's gates, and of its rankings."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from dyrate.predictor_config import PredictorConfig
from dyrate.predictor_training.batch import NO_TARGET, Batch
from dyrate.predictor_training.recipe import Loss, Recipe
from dyrate.predictor_training.teacher_forcing import FrozenModel, Pass, Statistics
from dyrate.predictor_training.token_gates import Gates, Relaxation, gates, retained
from dyrate.predictors import Predictor


@dataclass(frozen=True, eq=False)
class PrunedPass:
    """What a pass under a predictor has given."""

    batch: Batch
    logits: Tensor
    """FloatTensor [batch, T, vocabulary] under the gates."""
    rate_logits: Tensor
    """FloatTensor [batch, T, K_r]."""
    gates: Gates
    unpruned: Tensor | None
    """FloatTensor [batch, T, vocabulary] without any pruning, where it was wanted."""
    unpruned_at_decode: float = 0.0
    """Share of the layers >= K that go on seeing, at decode, all that the prefill left: the lagged ones."""
    drawn: Tensor | None = None
    """LongTensor [batch]: of each row, the one step that is pruned and learns; None where all are."""

    def task_loss(self, loss: Loss) -> Tensor:
        """Return the weighted mean over the answers' tokens; `distillation` needs the unpruned logits."""
        if loss == "distillation":
            assert self.unpruned is not None
            wanted = self.unpruned.log_softmax(-1)
            losses = kl_div(self.logits.log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)
        else:
            losses = answer_losses(self.logits, self.batch)
        weights = self.batch.weights
        if self.drawn is not None:  # each stands for its whole answer
            weights = torch.zeros_like(weights).scatter(
                1, self.drawn[:, None], weights.sum(dim=1, keepdim=True)
            )
        return weighted_mean(losses, weights)

    def retained(self) -> tuple[Tensor, Tensor]:
        """Return the share of visual tokens that layers >= K see at prefill [batch], and at decode [batch],
        the mean over steps and layers.

        A row without decode steps has 0 there.
        """
        share = retained(self.gates.steps, self.batch.prompt.layout.valid)
        later, lagged = self.batch.asked[:, 1:], self.unpruned_at_decode
        seen = (1 - lagged) * share[:, 1:] + lagged * share[:, :1]
        return share[:, 0], (seen * later).sum(dim=1) / later.sum(dim=1).clamp_min(1)

    def budget(self) -> Tensor:
        """Return the mean share kept, of prefill and decode alike; prefill counts if it prunes.

        An answer counts as much as it does in the loss: else the same lambda would be a higher price for
        short answers than for long ones.
        """
        prefill, decode = self.retained()
        decodes, weights = self.batch.asked[:, 1:].any(dim=1), self.batch.weights.sum(dim=1)
        if self.gates.prefill is None:
            return weighted_mean(decode, decodes * weights)
        return weighted_mean(torch.where(decodes, (prefill + decode) / 2, prefill), weights)


def run_pruned(
    frozen: FrozenModel,
    predictor: Predictor,
    recipe: Recipe,
    batch: Batch,
    relax: Callable[[Tensor], Tensor],
    *,
    unpruned: bool = False,
) -> PrunedPass:
    """Run a batch under a predictor; `relax` makes probabilities of the rates' logits [batch, T, K_r].

    Lagged layers are at or above the prune layer, so what they looked at one step before depends on the
    pruning of that step. All steps run at once here; the unpruned model's attention stands in for it.
    """
    config = predictor.config
    lagged: Statistics = {}
    reference: Tensor | None = None
    if unpruned or config.lagged:
        reference, lagged = frozen.observe(batch, config.lagged)
    rate_logits: list[Tensor] = []

    def decide(statistics: Statistics) -> Gates:
        rate_logits.append(predictor.rate(statistics[config.layer - 1].class_mass))
        scores = token_scores(predictor, statistics, lagged)
        valid = batch.prompt.layout.valid
        decided = gates(relax(rate_logits[0]), scores, valid, recipe)
        if isinstance(relax, Relaxation) and relax.estimator == "soft_gradient":
            mixed = gates(relax.mixture(rate_logits[0]), scores, valid, recipe)
            decided = replace(decided, relaxed=mixed)
        return decided

    drawn = relax.drawn if isinstance(relax, Relaxation) else None
    made = Pass(batch, range(config.layer), config.layer, decide, config.lagged, drawn)
    logits = frozen.logits(made)
    assert made.gates is not None
    lagging = len(config.lagged) / (frozen.layers - config.layer)
    wanted = reference if unpruned else None
    return PrunedPass(batch, logits, rate_logits[0], made.gates, wanted, lagging, drawn)


def ranked_by(
    config: PredictorConfig, statistics: Statistics, lagged: Statistics
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the attention that visual tokens are ranked by, layer by layer: at prefill [batch, 1, heads, V],
    and at decode [batch, T - 1, heads, V].
    """
    shallow = [statistics[layer].head_scores for layer in range(config.layer)]
    before = [lagged[layer].head_scores[:, :-1] for layer in config.lagged]
    return [scores[:, :1] for scores in shallow], [*(scores[:, 1:] for scores in shallow), *before]


@torch.no_grad()
def token_scores(predictor: Predictor, statistics: Statistics, lagged: Statistics) -> Tensor:
    """Return FloatTensor [batch, T, V]: the ranking of every step, higher is better."""
    prefill, decode = ranked_by(predictor.config, statistics, lagged)
    if predictor.prefill_ranker is not None and predictor.decode_ranker is not None:
        first, later = predictor.prefill_ranker(prefill), predictor.decode_ranker(decode)
    else:
        layer = max(predictor.config.lagged, default=None)
        deepest = decode[-1] if layer is None else lagged[layer].head_scores[:, :-1]
        first, later = prefill[-1].mean(dim=2), deepest.mean(dim=2)
    return torch.cat([first, later], dim=1)


def ranking_loss(frozen: FrozenModel, predictor: Predictor, batch: Batch) -> Tensor:
    """Return how far the rankers are from what the unpruned layers >= K look at, in nats.

    Each step's target is the attention of its query on the visual tokens, mean over heads and layers >= K;
    the prefill's is the mean over all steps, since what it drops is gone for all of them.
    """
    assert predictor.prefill_ranker is not None
    assert predictor.decode_ranker is not None
    _, statistics = frozen.observe(batch, range(frozen.layers))
    of_prefill, of_decode = ranked_by(predictor.config, statistics, statistics)
    deep = range(predictor.config.layer, frozen.layers)
    wanted = torch.stack([statistics[layer].head_scores.mean(dim=2) for layer in deep]).mean(dim=0)
    valid, asked = batch.prompt.layout.valid, batch.asked
    first = predictor.prefill_ranker([scores[:, 0] for scores in of_prefill])
    later = predictor.decode_ranker(of_decode)
    prefill = _divergence(first, (wanted * asked[..., None]).sum(dim=1), valid).mean()
    decode = weighted_mean(_divergence(later, wanted[:, 1:], valid[:, None]), batch.weights[:, 1:])
    return prefill + decode


def _divergence(scores: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Return KL(wanted || softmax(scores)) [...] of scores and unnormalised targets [..., V]."""
    target = wanted / wanted.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    predicted = scores.masked_fill(~valid, float("-inf")).log_softmax(dim=-1).masked_fill(~valid, 0.0)
    return kl_div(predicted, target, reduction="none").sum(dim=-1)


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of logits [batch, T, vocabulary], weighted mean over the answers' tokens."""
    return weighted_mean(answer_losses(logits, batch), batch.weights)


def answer_losses(logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy [batch, T] of logits [batch, T, vocabulary]; 0 where a row has no step."""
    losses = cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=NO_TARGET, reduction="none"
    )
    return losses.view_as(batch.weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of values of the same shape; 0 where no weight is."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-12)
