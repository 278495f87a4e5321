"""What a predictor does to held-out examples with hard rates, beside the unpruned model; and its schedule."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.objective import answer_loss, run_pruned
from dyrate.predictor_training.teacher_forcing import FrozenModel
from dyrate.predictor_training.token_gates import Pruning, hard
from dyrate.predictors import Predictor

_ENOUGH = 8  # examples that a step's mean rate is taken over, where there are so many


@torch.no_grad()
def validate(
    frozen: FrozenModel, predictor: Predictor, pruning: Pruning, batches: Sequence[Batch]
) -> dict[str, Any]:
    """Return the record's `validation` and `schedule`.

    `schedule` is the mean rate of steps 0, 1, ..., as far as enough answers go. Answers count as right where
    every token is the most probable one, which is when greedy decoding writes them.
    """
    losses: dict[str, list[Tensor]] = {"unpruned": [], "pruned": []}
    right: dict[str, list[Tensor]] = {"unpruned": [], "pruned": []}
    weights, asked, rates, prefill, decode, decodes = [], [], [], [], [], []
    longest = max(batch.steps for batch in batches)
    for batch in batches:
        pruned = run_pruned(frozen, predictor, pruning, batch, hard, unpruned=True)
        assert pruned.unpruned is not None
        for name, logits in (("unpruned", pruned.unpruned), ("pruned", pruned.logits)):
            losses[name].append(answer_loss(logits, batch) * batch.weights.sum())
            right[name].append(_padded((logits.argmax(-1) == batch.targets) & batch.asked, longest))
        weights.append(batch.weights.sum())
        asked.append(_padded(batch.asked, longest))
        rates.append(_padded(pruned.rate_logits.argmax(-1) / predictor.config.rates, longest))
        kept = pruned.retained()
        prefill.append(kept[0])
        decode.append(kept[1])
        decodes.append(batch.asked[:, 1:].any(dim=1))
    steps = torch.cat(asked)
    per_step = steps.sum(dim=0)
    means = (torch.cat(rates) * steps).sum(dim=0) / per_step.clamp_min(1)
    enough = per_step >= min(_ENOUGH, len(steps))
    scores = {
        name: {
            "loss": _number(torch.stack(losses[name]).sum() / torch.stack(weights).sum()),
            "tokens": _number(torch.cat(right[name]).sum() / steps.sum()),
            "answers": _number((torch.cat(right[name]) == steps).all(dim=1).float().mean()),
        }
        for name in losses
    }
    answering = torch.cat(decodes)
    return {
        "validation": {
            "examples": len(steps),
            **scores,
            "retained_prefill": _number(torch.cat(prefill).mean()),
            "retained_decode": _number(torch.cat(decode)[answering].mean()) if answering.any() else None,
        },
        "schedule": [_number(mean) for mean, counts in zip(means, enough, strict=True) if counts],
    }


def _padded(values: Tensor, steps: int) -> Tensor:
    """Return values [batch, T] with zeros up to so many steps."""
    return torch.nn.functional.pad(values, (0, steps - values.shape[1]))


def _number(value: Tensor) -> float:
    return round(value.item(), 6)
