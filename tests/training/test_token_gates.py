"""Claims: gates are the seed's mixture of masks; hard rates keep what stepwise pruning keeps."""

import itertools

import pytest
import torch
from torch import Tensor

from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.token_gates import Relaxation, gates, gumbel, hard, retained

BATCH, STEPS, VISUAL, RATES = 3, 4, 10, 5
VALID = torch.tensor([[True] * 10, [True] * 7 + [False] * 3, [True] * 10])


def scores(seed: int = 0) -> Tensor:
    return torch.rand((BATCH, STEPS, VISUAL), generator=torch.Generator().manual_seed(seed))


def probabilities(seed: int = 1) -> Tensor:
    logits = torch.randn((BATCH, STEPS, RATES), generator=torch.Generator().manual_seed(seed)) * 2
    return logits.softmax(-1)


def mask(ranking: Tensor, rate: float, visual: int) -> Tensor:
    """The seed's M_i: ones for the best-ranked, zeros for the others."""
    kept = torch.zeros(VISUAL)
    kept[ranking[:visual].argsort(descending=True, stable=True)[: round(visual * (1 - rate))]] = 1
    return kept


def test_a_gate_is_the_sum_of_masks_times_probabilities() -> None:
    """M = sum_i p_i M_i, at every step on its own where prefill drops nothing."""
    p, s = probabilities(), scores()
    found = gates(p, s, VALID, Recipe(prune_prefill=False))
    assert found.prefill is None
    for row, step in itertools.product(range(BATCH), range(1, STEPS)):
        visual = int(VALID[row].sum())
        mixed = sum(p[row, step, i] * mask(s[row, step], i / RATES, visual) for i in range(RATES))
        torch.testing.assert_close(found.steps[row, step], mixed)
    assert torch.equal(found.steps[:, 0], VALID.float())


def test_what_prefill_drops_is_gone_for_all_later_steps() -> None:
    p, s = probabilities(), scores()
    found = gates(p, s, VALID, Recipe())
    assert found.prefill is not None
    assert torch.equal(found.prefill, found.steps[:, 0])
    for row in range(BATCH):
        visual = int(VALID[row].sum())
        mixed = sum(p[row, 0, i] * mask(s[row, 0], i / RATES, visual) for i in range(RATES))
        torch.testing.assert_close(found.prefill[row], mixed)
        assert (found.steps[row] <= found.prefill[row] + 1e-6).all()


def expected_sets(choice: Tensor, s: Tensor, row: int, recipe: Recipe) -> list[set[int]]:
    """Stepwise pruning of one row in plain Python."""
    visual = int(VALID[row].sum())
    held, wanted, seen = set(range(visual)), visual, []
    for step in range(STEPS):
        count = max(round(visual * (1 - int(choice[row, step]) / RATES)), round(recipe.minimum * visual))
        if step == 0 and not recipe.prune_prefill:
            count = visual
        if step and (recipe.monotone or recipe.mode == "evict"):
            count = min(count, wanted)
        wanted = count
        best = set(sorted(held, key=lambda v: (-float(s[row, step, v]), v))[:count])
        seen.append(best)
        if step == 0 or recipe.mode == "evict":
            held = best
    return seen


@pytest.mark.parametrize("prune_prefill", [True, False])
@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("mode", ["evict", "select"])
@pytest.mark.parametrize("minimum", [0.0, 0.35])
def test_hard_rates_keep_what_stepwise_pruning_keeps(
    mode: str, monotone: bool, prune_prefill: bool, minimum: float
) -> None:
    recipe = Recipe(mode=mode, prune_prefill=prune_prefill, minimum=minimum, monotone=monotone)
    for seed in range(5):
        p, s = hard(probabilities(seed)), scores(seed).mul(4).round()  # with ties
        found = gates(p, s, VALID, recipe)
        for row in range(BATCH):
            sets = expected_sets(p.argmax(-1), s, row, recipe)
            assert [set(g.nonzero().flatten().tolist()) for g in found.steps[row]] == sets
        assert set(found.steps.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("mode", ["evict", "select"])
@pytest.mark.parametrize("estimator", ["straight_through", "soft"])
def test_gradients_of_every_step_reach_the_logits(mode: str, estimator: str) -> None:
    logits = torch.zeros(BATCH, STEPS, RATES, requires_grad=True)
    noise = gumbel((BATCH, STEPS, RATES), torch.Generator().manual_seed(3))
    p = Relaxation(noise, 0.7, estimator)(logits)
    # More is kept where low rates are likely: the kept share falls along the gradient of high rates.
    kept = retained(gates(p, scores(), VALID, Recipe(mode=mode)).steps, VALID)
    kept[:, 0].sum().backward()
    assert (logits.grad[:, 0, 0] > logits.grad[:, 0, -1]).all()
    assert (logits.grad[:, 1:] == 0).all()
    logits.grad = None
    p = Relaxation(noise, 0.7, estimator)(logits)
    retained(gates(p, scores(), VALID, Recipe(mode=mode, prune_prefill=False)).steps, VALID).sum().backward()
    assert (logits.grad[:, 0] == 0).all()
    assert (logits.grad[:, 1].abs().sum(-1) > 0).all()


def test_straight_through_is_exactly_one_hot() -> None:
    noise = gumbel((50, 3, 20), torch.Generator().manual_seed(0))
    p = Relaxation(noise, 0.5)(torch.randn(50, 3, 20))
    assert torch.equal(p.sort(-1).values, torch.tensor([*[0.0] * 19, 1.0]).expand_as(p))


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = gumbel((20_000, 1, 3), torch.Generator().manual_seed(0))
    shares = hard(logits + noise).mean(dim=(0, 1))
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.015, rtol=0)


def test_a_high_temperature_mixes_and_a_low_one_chooses() -> None:
    logits = torch.tensor([[[0.0, 1.0]]])
    for temperature, largest in ((100.0, 0.51), (0.01, 1.0)):
        p = Relaxation(torch.zeros(1, 1, 2), temperature, "soft")(logits)
        assert p.max().item() == pytest.approx(largest, abs=0.01)
