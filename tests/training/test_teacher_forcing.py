"""Claims: one teacher-forced pass with hard rates is what inference computes; only the predictor learns."""

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from dyrate.errors import DyrateError
from dyrate.methods.dyrate import DyRate
from dyrate.methods.none import NoReduction
from dyrate.predictor_training.batch import NO_TARGET, Batch
from dyrate.predictor_training.objective import (
    PrunedPass,
    answer_loss,
    ranking_loss,
    run_pruned,
    token_scores,
)
from dyrate.predictor_training.recipe import Estimator, Recipe
from dyrate.predictor_training.teacher_forcing import attention_forward, teacher_forced
from dyrate.predictor_training.token_gates import Gates, Relaxation, gumbel, hard
from dyrate.predictors import save_predictor
from tests.tiny import IMAGE, VISUAL_TOKENS, tiny_inputs, tiny_llava
from tests.training.classroom import answers_of, forced, tiny_batch, wild_predictor

ROWS, LENGTHS = [7, 3, 5], [6, 4, 2]


def generated_logits(model, method, record=()):
    answers = answers_of(LENGTHS)
    with method(model, record) as run:
        made = model.generate(
            **tiny_inputs(ROWS),
            max_new_tokens=max(LENGTHS),
            do_sample=False,
            logits_processor=forced(answers),
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(made.logits, dim=1), run


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
def test_unpruned_logits_and_class_mass_are_those_of_generate(text: str) -> None:
    model = tiny_llava(text=text, kv_heads=2)
    batch = tiny_batch(ROWS, LENGTHS)
    expected, run = generated_logits(model, NoReduction(), record=[1, 4])
    with teacher_forced(model) as frozen:
        logits, statistics = frozen.observe(batch, [1, 4])
    assert (logits - expected)[batch.asked].abs().max() < 1e-4
    for layer in (1, 4):
        mass = torch.stack(list(run.class_mass[layer]), dim=1)
        assert (statistics[layer].class_mass - mass)[batch.asked].abs().max() < 1e-5


@pytest.mark.parametrize("prune_prefill", [True, False])
@pytest.mark.parametrize("mode", ["evict", "select"])
@pytest.mark.parametrize(
    "config",
    [
        {"kind": "linear"},
        {"kind": "mlp", "per_head": True, "layer": 3},
        {"kind": "window", "history": 3, "ranking": "linear"},
        {"kind": "gru", "ranking": "mlp", "layer": 1},
    ],
    ids=lambda config: config["kind"],
)
def test_hard_rates_in_training_equal_inference(config, mode, prune_prefill, tmp_path) -> None:
    model = tiny_llava(kv_heads=2)
    for seed in range(2):
        predictor = wild_predictor(seed, **config)
        save_predictor(predictor, tmp_path, {"schedule": [0.5]})
        method = DyRate(
            layer=predictor.config.layer, predictor=str(tmp_path), mode=mode, prune_prefill=prune_prefill
        )
        expected, _ = generated_logits(model, method)
        batch = tiny_batch(ROWS, LENGTHS)
        with teacher_forced(model) as frozen, torch.no_grad():
            pruned = run_pruned(
                frozen, predictor, Recipe(mode=mode, prune_prefill=prune_prefill), batch, hard
            )
        assert (pruned.logits - expected)[batch.asked].abs().max() < 1e-4
        rates = pruned.rate_logits.argmax(-1)[batch.asked]
        assert len(rates.unique()) > 1, "the claim is about rates that differ"


def test_minimum_and_monotone_equal_inference(tmp_path) -> None:
    model, predictor = tiny_llava(), wild_predictor(1)
    save_predictor(predictor, tmp_path, {"schedule": [0.5]})
    method = DyRate(predictor=str(tmp_path), minimum=0.3, monotone=True)
    expected, _ = generated_logits(model, method)
    batch = tiny_batch(ROWS, LENGTHS)
    with teacher_forced(model) as frozen, torch.no_grad():
        pruned = run_pruned(frozen, predictor, Recipe(minimum=0.3, monotone=True), batch, hard)
    assert (pruned.logits - expected)[batch.asked].abs().max() < 1e-4


def test_lagged_layers_see_what_the_prefill_left_and_rank_one_step_later() -> None:
    """With a rate of 0 nothing is pruned, so even the stand-in for lagged attention is exact."""
    model, predictor = tiny_llava(), wild_predictor(0, lagged=(4,), ranking="mlp")
    with torch.no_grad():
        predictor.rate.head[-1].bias.copy_(torch.tensor([1e4] + [0.0] * 7))
    batch = tiny_batch(ROWS, LENGTHS)
    with teacher_forced(model) as frozen, torch.no_grad():
        unpruned, statistics = frozen.observe(batch, range(6))
        pruned = run_pruned(frozen, predictor, Recipe(), batch, hard)
        assert (pruned.logits - unpruned)[batch.asked].abs().max() < 1e-4
        plain = wild_predictor(0, lagged=(4,))
        scores = token_scores(plain, statistics, statistics)
    torch.testing.assert_close(scores[:, 0], statistics[1].head_scores[:, 0].mean(1))
    torch.testing.assert_close(scores[:, 1:], statistics[4].head_scores[:, :-1].mean(2))


@pytest.mark.parametrize("mode", ["evict", "select"])
@pytest.mark.parametrize("estimator", ["straight_through", "soft_gradient"])
@pytest.mark.parametrize("kind", ["linear", "mlp", "window", "gru"])
def test_gradients_reach_the_predictor_and_nothing_else(kind: str, estimator: str, mode: str) -> None:
    model, predictor = tiny_llava(), wild_predictor(kind=kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = tiny_batch(ROWS, LENGTHS)
    noise = gumbel((3, batch.steps, 8), torch.Generator().manual_seed(0))
    with teacher_forced(model) as frozen:
        pruned = run_pruned(frozen, predictor, Recipe(mode=mode), batch, Relaxation(noise, 5.0, estimator))
        answer_loss(pruned.logits, batch).backward()
    gradients = [parameter.grad for parameter in predictor.rate.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 1e-4
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("lagged", [(), (4,)])
def test_a_soft_gradient_leaves_the_values_to_whole_masks(lagged: tuple[int, ...]) -> None:
    predictor, batch = wild_predictor(lagged=lagged), tiny_batch(ROWS, LENGTHS)
    noise = gumbel((3, batch.steps, 8), torch.Generator().manual_seed(0))
    logits, gradients = [], []
    with teacher_forced(tiny_llava()) as frozen:
        for estimator in ("straight_through", "soft_gradient"):
            predictor.zero_grad()
            pruned = run_pruned(frozen, predictor, Recipe(), batch, Relaxation(noise, 5.0, estimator))
            answer_loss(pruned.logits, batch).backward()
            logits.append(pruned.logits)
            gradients.append(torch.cat([p.grad.flatten() for p in predictor.rate.parameters()]))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
    assert (gradients[0] - gradients[1]).abs().max() > 0.01 * gradients[0].abs().max()


def test_a_soft_gradient_is_that_of_attention_under_the_mixtures() -> None:
    """On an attention layer by itself: value and the query's gradient of one mask, the bias' of the other."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    hard_bias, soft_bias = (torch.randn(1, 1, 5, 5, requires_grad=True) for _ in range(2))
    layer = SimpleNamespace(layer_idx=0, is_causal=True, training=False)
    made = SimpleNamespace(observed=(), mask=lambda *_: hard_bias.detach(), relaxed_mask=lambda *_: soft_bias)
    found, _ = attention_forward(layer, query, key, value, None, dyrate_pass=made, scaling=0.5)
    found.square().sum().backward()

    whole, other = query.detach().requires_grad_(), soft_bias.detach().requires_grad_()
    fixed = hard_bias.detach()
    expected = scaled_dot_product_attention(whole, key, value, fixed, scale=0.5).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    upstream = 2 * expected.detach()
    mixed = scaled_dot_product_attention(query.detach(), key.detach(), value.detach(), other, scale=0.5)
    mixed.transpose(1, 2).backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(soft_bias.grad, other.grad)
    torch.testing.assert_close(query.grad, whole.grad)
    assert hard_bias.grad is None


def test_scaled_features_are_multiplied_on_entering_the_prune_layer() -> None:
    """Against the unpruned pass, with each visual token multiplied by hand."""
    model, predictor = tiny_llava(), wild_predictor()
    batch, drawn = tiny_batch(ROWS, LENGTHS), torch.tensor([0, 2, 1])
    noise = gumbel((3, batch.steps, 8), torch.Generator().manual_seed(0))
    relax = Relaxation(noise, 5.0, "scaled_features", drawn)

    def multiply(_: object, given: tuple) -> tuple:
        states = given[0].clone()
        for row, step in enumerate(drawn.tolist()):
            columns = (batch.input_ids[row] == IMAGE).nonzero().flatten()
            for token, column in enumerate(columns):
                states[row, column] *= opened[row, step, token]
        return states, *given[1:]

    with teacher_forced(model) as frozen:
        pruned = run_pruned(frozen, predictor, Recipe(estimator="scaled_features"), batch, relax)
        pruned.task_loss("cross_entropy").backward()
        opened = pruned.gates.steps.detach()
        layer = model.model.language_model.layers[predictor.config.layer]
        hook = layer.register_forward_pre_hook(multiply)
        expected, _ = frozen.observe(batch, ())
        hook.remove()
        unpruned, _ = frozen.observe(batch, ())
    asked = batch.asked
    torch.testing.assert_close(pruned.logits[asked].detach(), expected[asked], atol=1e-4, rtol=0)
    assert (expected - unpruned)[asked].abs().max() > 0.01
    assert ((opened > 0.01) & (opened < 0.99)).any(), "mixtures, not whole masks"
    gradients = [parameter.grad for parameter in predictor.rate.parameters()]
    assert sum(gradient.abs().sum() for gradient in gradients) > 1e-4


def test_of_scaled_features_the_drawn_step_alone_learns_for_its_whole_answer() -> None:
    batch, drawn = tiny_batch(ROWS, LENGTHS), torch.tensor([0, 2, 1])
    logits = torch.randn(3, batch.steps, 64, requires_grad=True)
    made = PrunedPass(
        batch, logits, torch.zeros(0), Gates(torch.ones(3, batch.steps, 4), None), None, drawn=drawn
    )
    made.task_loss("cross_entropy").backward()
    learning = logits.grad.abs().sum(-1) > 0
    assert torch.equal(learning, torch.arange(batch.steps).expand(3, -1) == drawn[:, None])
    rows = torch.arange(3)
    losses = cross_entropy(logits[rows, drawn], batch.targets[rows, drawn], reduction="none")
    answers = batch.weights.sum(dim=1)
    expected = (losses * answers).sum() / answers.sum()
    torch.testing.assert_close(made.task_loss("cross_entropy"), expected)


def test_scaled_features_leave_no_layer_out() -> None:
    with pytest.raises(DyrateError, match=r"lagged: .*does not go with estimator: scaled_features"):
        Recipe.of({"estimator": "scaled_features", "lagged": [4]})


def test_the_gradient_of_a_soft_gate_is_right() -> None:
    """Against finite differences of the loss in the logits of the rates."""
    model, batch = tiny_llava(num_layers=3).double(), tiny_batch([4, 6], [3, 2])
    predictor = wild_predictor(kind="linear").double()
    noise = gumbel((2, batch.steps, 8), torch.Generator().manual_seed(0)).double()
    batch = Batch(batch.input_ids, batch.prompt, batch.pixel_values.double(), batch.targets)
    bias = predictor.rate.head.bias

    def loss() -> torch.Tensor:
        pruned = run_pruned(frozen, predictor, Recipe(), batch, Relaxation(noise, 3.0, "soft"))
        return answer_loss(pruned.logits, batch)

    with teacher_forced(model) as frozen:
        loss().backward()
        numeric, width = [], 1e-3
        for index in range(4):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    bias[index] += sign * width
                    values.append(loss())
                    bias[index] -= sign * width
            numeric.append((values[0] - values[1]) / (2 * width))
    torch.testing.assert_close(bias.grad[:4].float(), torch.stack(numeric).float(), rtol=0.05, atol=1e-4)


def test_rankers_learn_what_deep_layers_look_at() -> None:
    model, predictor = tiny_llava(), wild_predictor(ranking="mlp", lagged=(4,))
    batch = tiny_batch([4, 6, 5, 3], [5, 3, 2, 4])
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-2)
    losses = []
    with teacher_forced(model) as frozen:
        for _ in range(60):
            loss = ranking_loss(frozen, predictor, batch)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert min(losses) >= 0, "a divergence"
    assert all(parameter.grad is None for parameter in predictor.rate.parameters())


def test_after_the_block_the_model_is_as_before_even_after_an_error() -> None:
    model = tiny_llava().train()
    implementation = model.model.language_model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), teacher_forced(model):
        _ = 1 / 0
    assert model.model.language_model.config._attn_implementation == implementation
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_answer_of_n_tokens_weighs_the_root_of_n() -> None:
    batch = tiny_batch(ROWS, [9, 4, 1])
    torch.testing.assert_close(batch.weights.sum(1), torch.tensor([3.0, 2.0, 1.0]))
    assert (batch.weights[batch.targets == NO_TARGET] == 0).all()


def test_an_answer_weighs_the_same_in_the_budget_as_in_the_loss() -> None:
    batch = tiny_batch(ROWS, [9, 4, 1])
    kept = torch.zeros(3, 9, VISUAL_TOKENS)
    kept[0, :, :4] = kept[1, :, :8] = kept[2, :, :] = 1.0  # a quarter, half, and all of the tokens
    pruned = PrunedPass(batch, torch.empty(0), torch.empty(0), Gates(kept, kept[:, 0]), None)
    assert pruned.budget().item() == pytest.approx((3 * 0.25 + 2 * 0.5 + 1 * 1.0) / 6)
    undropped = replace(pruned, gates=Gates(kept, None))
    assert undropped.budget().item() == pytest.approx((3 * 0.25 + 2 * 0.5) / 5), "decode alone counts"


def test_lagged_layers_count_with_all_that_they_see() -> None:
    model, predictor = tiny_llava(), wild_predictor(ranking="mlp", lagged=(4,))
    batch = tiny_batch(ROWS, LENGTHS)
    with teacher_forced(model) as frozen, torch.no_grad():
        pruned = run_pruned(frozen, predictor, Recipe(), batch, hard)
    assert pruned.unpruned_at_decode == 1 / 4, "one of layers 2 to 5"
    prefill, decode = pruned.retained()
    chosen = replace(pruned, unpruned_at_decode=0.0).retained()[1]
    torch.testing.assert_close(decode, 0.75 * chosen + 0.25 * prefill * (chosen > 0))
    assert (decode > chosen).any()


def test_unfit_batches_are_explained() -> None:
    inputs = tiny_inputs([4, 6])
    with pytest.raises(DyrateError, match="no tokens"):
        Batch.of(inputs, [[5], []], IMAGE)
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    with pytest.raises(DyrateError, match="pad on the left"):
        Batch.of(inputs, [[5], [6]], IMAGE)


def test_two_images_in_a_row_have_gates_of_their_own() -> None:
    model, predictor = tiny_llava(), wild_predictor()
    batch = Batch.of(tiny_inputs([4, 6], images=[2, 1]), answers_of([3, 2]), IMAGE)
    with teacher_forced(model) as frozen, torch.no_grad():
        pruned = run_pruned(frozen, predictor, Recipe(), batch, hard)
    assert pruned.gates.steps.shape == (2, 3, 2 * VISUAL_TOKENS)
    assert (pruned.gates.steps[1, :, VISUAL_TOKENS:] == 0).all()
    assert pruned.logits.isfinite().all()


def gradient_of(device: str, dtype: torch.dtype, estimator: Estimator = "soft") -> torch.Tensor:
    model, predictor = tiny_llava(kv_heads=2).to(device, dtype), wild_predictor(kind="linear").to(device)
    prompts = {name: value.to(device) for name, value in tiny_inputs(ROWS).items()}
    prompts["pixel_values"] = prompts["pixel_values"].to(dtype)
    batch = Batch.of(prompts, answers_of(LENGTHS), IMAGE)
    noise = gumbel((3, batch.steps, 8), torch.Generator().manual_seed(0)).to(device)
    with teacher_forced(model) as frozen:
        pruned = run_pruned(frozen, predictor, Recipe(), batch, Relaxation(noise, 5.0, estimator))
        answer_loss(pruned.logits, batch).backward()
    return predictor.rate.head.bias.grad.cpu()


def test_a_model_in_bfloat16_teaches_too() -> None:
    gradient = gradient_of("cpu", torch.bfloat16)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.norm() > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_a_gpu_gives_the_gradient_that_the_cpu_gives(estimator: Estimator) -> None:
    expected = gradient_of("cpu", torch.float32, estimator)
    assert (gradient_of("cuda", torch.float32, estimator) - expected).norm() < 1e-3 * expected.norm()
    assert gradient_of("cuda", torch.bfloat16, estimator).isfinite().all()
