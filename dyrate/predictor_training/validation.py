"""What a predictor does to held-out examples with hard rates, beside the unpruned model; and its schedule."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.objective import answer_loss, run_pruned
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import FrozenModel
from dyrate.predictor_training.token_gates import hard
from dyrate.predictors import Predictor

_ENOUGH = 8  # examples that a step's mean rate is taken over, where there are so many


@torch.no_grad()
def validate(
    frozen: FrozenModel, predictor: Predictor, recipe: Recipe, batches: Sequence[Batch]
) -> dict[str, Any]:
    """Return the record's `validation` and `schedule`.

    `schedule` is the mean rate of steps 0, 1, ..., as far as enough answers go. Answers count as right where
    every token is the most probable one, which is when greedy decoding writes them.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    longest = max(batch.steps for batch in batches)
    for batch in batches:
        pruned = run_pruned(frozen, predictor, recipe, batch, hard, unpruned=True)
        assert pruned.unpruned is not None
        beyond = 0, longest - batch.steps
        weight = batch.weights.sum()
        for name, logits in (("unpruned", pruned.unpruned), ("pruned", pruned.logits)):
            parts[f"{name} loss"].append((answer_loss(logits, batch) * weight)[None])
            parts[f"{name} right"].append(pad((logits.argmax(-1) == batch.targets) & batch.asked, beyond))
        parts["weight"].append(weight[None])
        parts["asked"].append(pad(batch.asked, beyond))
        parts["rate"].append(pad(pruned.rate_logits.argmax(-1) / predictor.config.rates, beyond))
        prefill, decode = pruned.retained()
        parts["prefill"].append(prefill)
        parts["decode"].append(decode[batch.asked[:, 1:].any(dim=1)])
    of_all = {name: torch.cat(values) for name, values in parts.items()}
    asked, decode = of_all["asked"], of_all["decode"]
    answers = asked.sum(dim=0)
    means = (of_all["rate"] * asked).sum(dim=0) / answers.clamp_min(1)
    scores = {
        name: {
            "loss": _number(of_all[f"{name} loss"].sum() / of_all["weight"].sum()),
            "tokens": _number(of_all[f"{name} right"].sum() / asked.sum()),
            "answers": _number((of_all[f"{name} right"] == asked).all(dim=1).float().mean()),
        }
        for name in ("unpruned", "pruned")
    }
    return {
        "validation": {
            "examples": len(asked),
            **scores,
            "retained_prefill": _number(of_all["prefill"].mean()),
            "retained_decode": _number(decode.mean()) if len(decode) else None,
        },
        "schedule": [_number(mean) for mean in means[answers >= min(_ENOUGH, len(asked))]],
    }


def _number(value: Tensor) -> float:
    return round(value.item(), 6)
