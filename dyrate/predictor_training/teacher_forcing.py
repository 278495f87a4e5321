"""The frozen model under teacher forcing: all steps of an answer in one forward, pruned by gates or not.

The stock model runs. As at inference, a registered attention function gets what it needs as a keyword of the
forward pass: here a `Pass`, which reads the statistics of the answers' queries and closes the gates from
prune layer K on. Layers below K never see the pruning, so the class mass of all steps is there when layer K
begins, and only layers from K on keep anything for the backward.

Memory of the backward, per token and layer from K on, for hidden size d, feed-forward size m and h bytes per
number: weights are frozen, so that what is kept is 3 m h (feed-forward), 8 d (norms, in float32) and 4 d h
(queries, keys, values and their output); where PyTorch has no fused kernel for a bias with gradients, the
attention itself too, heads S h for S tokens. On testbed-s this gives 16.2 kB, and 15.5 kB are measured. For
LLaVA-1.5-7B in bfloat16 (d = 4096, m = 11008, 30 layers, 700 tokens) it is 0.13 MB, so 2.8 GB per example, or
3.7 without a fused kernel, beside 14 GB of weights: a batch of 16 should fit into 80 GB.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dyrate.attention import no_mask
from dyrate.families import family_of
from dyrate.hooks import stand_in
from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.token_gates import Gates

ATTENTION = "dyrate-teacher-forcing"
PASS_KEYWORD = "dyrate_pass"
CLOSED = 1e-10
"""A closed gate: nothing in float32, but with a logarithm that gradients pass."""


@dataclass(frozen=True, eq=False)
class StepStatistics:
    """What the query of each step looks at in one layer, in float32; T steps."""

    class_mass: Tensor
    """FloatTensor [batch, T, heads, 4]: attention mass on sys, img, ins, res; sums to 1."""
    head_scores: Tensor
    """FloatTensor [batch, T, heads, V]: attention on each visual token; 0 where a row has none."""


Statistics = Mapping[int, StepStatistics]
"""Statistics by layer."""


@dataclass(eq=False)
class Pass:
    """One forward over a batch: the statistics it leaves behind, and the gates it runs under."""

    batch: Batch
    observed: Collection[int]
    """Layers whose statistics are left behind."""
    prune_layer: int = 0
    decide: Callable[[Statistics], Gates] | None = None
    """Makes the gates, on entering the prune layer, of the statistics of the layers before."""
    ungated: Collection[int] = ()
    """Layers from the prune layer on that see at every step all that the prefill has left."""
    scaled: Tensor | None = None
    """LongTensor [batch]: the step of each row whose gates multiply the features of visual tokens on entering
    the prune layer, for every query; then gates close nothing.
    """
    statistics: dict[int, StepStatistics] = field(default_factory=dict)
    gates: Gates | None = None
    _biases: dict[tuple[bool, bool], Tensor] = field(default_factory=dict)

    def mask(self, layer: int, dtype: torch.dtype) -> Tensor:
        """Return what the layer's attention adds to its logits, or a mask where that is 0 and -inf."""
        if self.decide is None or layer < self.prune_layer or self.scaled is not None:
            return self.batch.attended
        if self.gates is None:
            self.gates = self.decide(self.statistics)
        mask = self._mask(layer, self.gates, dtype)
        return mask if self.gates.relaxed is None else mask.detach()

    def relaxed_mask(self, layer: int, dtype: torch.dtype) -> Tensor | None:
        """Return the mask under which gradients are those of the attention, None where `mask` has them; asked
        for after it.
        """
        if self.gates is None or self.gates.relaxed is None:
            return None
        mask = self._mask(layer, self.gates.relaxed, dtype)
        return mask if mask.requires_grad else None

    def scale(self, hidden: Tensor) -> Tensor:
        """Return the states [batch, S, hidden] that enter the prune layer, multiplied by the drawn gates."""
        assert self.decide is not None
        assert self.scaled is not None
        self.gates = self.decide(self.statistics)
        rows = torch.arange(len(self.scaled), device=hidden.device)
        slots, width = self.batch.prompt.visual_slots, hidden.shape[1]
        factors = hidden.new_ones(len(hidden), width + 1)  # the last is a spare, as in `_bias`
        factors = factors.scatter(
            1, torch.where(slots < 0, width, slots), self.gates.steps[rows, self.scaled].to(hidden.dtype)
        )
        return hidden * factors[:, :width, None]

    def _mask(self, layer: int, gates: Gates, dtype: torch.dtype) -> Tensor:
        ungated = layer in self.ungated
        if ungated and gates.prefill is None:
            return self.batch.attended
        key = gates is self.gates, ungated
        if key not in self._biases:
            self._biases[key] = _bias(self.batch, gates, ungated).to(dtype)
        return self._biases[key]


def _bias(batch: Batch, gates: Gates, ungated: bool) -> Tensor:
    """Return FloatTensor [batch, 1, S, S]: log gates on the visual keys, of the prefill alone if `ungated`;
    -inf where nobody may look.
    """
    width = batch.input_ids.shape[1]
    before = torch.ones_like(gates.steps[:, 0]) if gates.prefill is None else gates.prefill
    steps = before[:, None].expand_as(gates.steps) if ungated else gates.steps
    everyone = torch.cat([before[:, None].expand(-1, width - batch.steps, -1), steps], dim=1)
    # Rows with fewer visual tokens than others write theirs into a spare column.
    slots = batch.prompt.visual_slots
    columns = torch.where(slots < 0, width, slots)[:, None].expand(-1, width, -1)
    bias = everyone.new_zeros(len(slots), width, width + 1).scatter(2, columns, (everyone + CLOSED).log())
    return bias[:, None, :, :width].masked_fill(~batch.attended, float("-inf"))


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dyrate_pass: Pass,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as the pass says: query [batch, heads, S, dim], key, value [batch, kv heads, S, dim]."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    mask = dyrate_pass.mask(layer, query.dtype)
    if layer in dyrate_pass.observed:
        dyrate_pass.statistics[layer] = _statistics(query, key, mask, scaling, dyrate_pass.batch)
    if mask.requires_grad and not query.requires_grad:  # the first gated layer
        query = _with_gradient(query)
    output, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    relaxed = dyrate_pass.relaxed_mask(layer, query.dtype)
    if relaxed is not None:
        fixed = _with_gradient(query), key.detach(), value.detach()
        soft, _ = sdpa_attention_forward(module, *fixed, relaxed, scaling=scaling, **kwargs)
        output = output + (soft - soft.detach())  # the value is that of the whole masks
    return output, None


def _with_gradient(query: Tensor) -> Tensor:
    """Return the query cut off from what made it, but as if it needed a gradient.

    Whether CUDA's memory-efficient kernel keeps what its backward needs, depends on query, key and value
    alone; here only the bias has a gradient.
    """
    return query.detach().requires_grad_()


@torch.no_grad()
def _statistics(query: Tensor, key: Tensor, mask: Tensor, scaling: float, batch: Batch) -> StepStatistics:
    """Recompute the attention rows of the steps' queries."""
    steps, (rows, heads, _, dim) = batch.steps, query.shape
    kv_heads = key.shape[1]
    # The heads that share keys become rows of one product, so that keys are not repeated.
    asking = query[:, :, -steps:].float().reshape(rows, kv_heads, -1, dim)
    logits = (asking @ key.float().transpose(-1, -2) * scaling).reshape(rows, heads, steps, -1)
    seen = mask[:, :, -steps:]
    logits = logits.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else logits + seen
    weights = logits.softmax(dim=-1).transpose(1, 2)
    slots = batch.prompt.visual_slots
    columns = slots.clamp_min(0)[:, None, None].expand(-1, steps, heads, -1)
    head_scores = weights.gather(3, columns).masked_fill((slots < 0)[:, None, None], 0.0)
    return StepStatistics(weights @ batch.class_one_hot[:, None], head_scores)


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, no_mask)


class FrozenModel:
    """A frozen model under teacher forcing; made by `teacher_forced`."""

    def __init__(self, model: Any) -> None:
        family = family_of(model)
        self._model = model
        self._family = family
        self._layers = family.layers
        self.layers = len(family.layers)
        self.heads: int = family.text_config.num_attention_heads
        self.device: torch.device = model.device

    @torch.no_grad()
    def observe(self, batch: Batch, layers: Collection[int]) -> tuple[Tensor, Statistics]:
        """Return the unpruned model's logits [batch, T, vocabulary], and the statistics of some layers."""
        made = Pass(batch, layers)
        return self.logits(made), made.statistics

    def logits(self, made: Pass) -> Tensor:
        """Return the logits [batch, T, vocabulary] under a pass's gates; gradients flow into these."""
        batch = made.batch
        with ExitStack() as undo:
            if made.scaled is not None:
                undo.callback(
                    self._layers[made.prune_layer]
                    .register_forward_pre_hook(lambda _, given: (made.scale(given[0]), *given[1:]))
                    .remove
                )
            self._family.begin(batch.inputs)
            masked = {**batch.inputs, "attention_mask": batch.valid.long()}
            logits: Tensor = self._model(
                **batch.inputs,
                position_ids=self._family.positions(self._model, masked),
                use_cache=False,
                logits_to_keep=batch.steps,
                **{PASS_KEYWORD: made},
            ).logits
        return logits.float()


@contextmanager
def teacher_forced(model: Any) -> Iterator[FrozenModel]:
    """Freeze `model` and let it run passes; after the `with` block it is as it was before."""
    family = family_of(model)
    with ExitStack() as undo:
        for config in family.attention_configs():
            undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = ATTENTION
        encode = family.encoder_owner.get_image_features

        @wraps(encode)
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop(PASS_KEYWORD, None)  # Qwen's hands all it is given down to the tower
            return encode(*args, **kwargs)

        stand_in(family.encoder_owner, "get_image_features", get_image_features, undo)
        undo.callback(model.train, model.training)
        model.eval()
        for parameter in model.parameters():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        yield FrozenModel(model)
