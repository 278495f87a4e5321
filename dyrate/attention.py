"""The attention of a model under token reduction: SDPA on each layer's own tokens, and the statistics of one
query.

One name is registered with transformers, as an attention function and as a mask function. The forward pass
carries a `Step` down to it as a keyword, so nothing is global.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dyrate.cache import Stage, gather_tokens, with_generated
from dyrate.errors import DyrateError

ATTENTION = "dyrate"
STEP_KEYWORD = "dyrate_step"


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the newest query of each row looks at in one layer, in float32."""

    class_mass: Tensor
    """FloatTensor [batch, heads, 4]: attention mass on sys, img, ins, res; sums to 1."""
    head_scores: Tensor
    """FloatTensor [batch, heads, V]: attention on each visual token; 0 where it is not seen."""
    seen: Tensor
    """BoolTensor [batch, V]: the visual tokens seen."""

    @cached_property
    def scores(self) -> Tensor:
        """FloatTensor [batch, V]: attention on each visual token, averaged over heads; -inf where it is not
        seen.
        """
        return self.head_scores.mean(dim=1).masked_fill(~self.seen, float("-inf"))

    def select_rows(self, rows: Tensor) -> "Statistics":
        """Return the statistics of the batch made of `rows` of this one."""
        return Statistics(self.class_mass[rows], self.head_scores[rows], self.seen[rows])


class Step:
    """One forward pass: what each layer attends to, and the statistics it leaves behind."""

    def __init__(self, index: int, stages: Sequence[Stage], generated: int, observed: Collection[int]):
        self.index = index
        """0 is the prefill, t >= 1 the t-th decode step."""
        self.stages = list(stages)
        """Per layer: the prompt tokens it attends to."""
        self.generated = generated
        """Generated tokens in the cache during this pass, the incoming one included."""
        self.observed = frozenset(observed)
        """Layers whose statistics are wanted."""
        self.statistics: dict[int, Statistics] = {}
        """Statistics of the observed layers that have run."""
        self.witnesses: dict[str, Tensor] = {}
        """By name, what vouches for numbers of this pass that must be finite."""
        self.attended: set[int] = set()
        """Layers whose attention has run."""
        self._masks: dict[Stage, Tensor | None] = {}
        self._columns: dict[Stage, Tensor] = {}
        self._selections: dict[tuple[Stage, Tensor], Stage] = {}

    def attend(self, first_layer: int, stage: Stage) -> None:
        """From `first_layer` on attend to `stage`, which those layers hold."""
        self.stages[first_layer:] = [stage] * (len(self.stages) - first_layer)

    def select(self, first_layer: int, held: Sequence[Stage], keep: Tensor) -> None:
        """From `first_layer` on attend only to `keep` (BoolTensor [batch, V]) of the visual tokens held."""
        for layer in range(first_layer, len(self.stages)):
            self.stages[layer] = self._selected(held[layer], keep)

    def _selected(self, stage: Stage, keep: Tensor) -> Stage:
        """Return what `keep` leaves of `stage`; a choice made again costs nothing."""
        if keep is stage.present:
            return stage
        if (stage, keep) not in self._selections:
            selected, columns = stage.restrict(keep)
            if columns is not None:
                self._columns[selected] = with_generated(columns, stage.width, self.generated)
            self._selections[stage, keep] = selected
        return self._selections[stage, keep]

    def mask(self, stage: Stage) -> Tensor | None:
        """Return the attention mask of the layers that attend to `stage`, None where SDPA needs none."""
        if not stage.padded:
            return None
        if stage not in self._masks:
            self._masks[stage] = stage.decode_mask(self.generated) if self.index else stage.prefill_mask
        return self._masks[stage]

    def columns(self, stage: Stage) -> Tensor | None:
        """Return the cache columns [batch, n] that a selection picks, None where all are used."""
        return self._columns.get(stage)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dyrate_step: Step | None = None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as the layer's stage says: query [batch, heads, m, dim], key, value [batch, kv heads, n, dim].

    The queries are those of the newest m tokens.
    """
    if dyrate_step is None:
        raise DyrateError(
            "a forward pass reached the attention without passing the hooks: call the whole model, "
            "model(...) or model.generate(...), not model.forward(...), its language model, or another model "
            "that shares its config"
        )
    if kwargs.get("sliding_window") is not None:
        raise DyrateError(
            f"layer {module.layer_idx} asks for a sliding window of {kwargs['sliding_window']}; supported is "
            "full attention in every layer"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    dyrate_step.attended.add(layer)
    stage = dyrate_step.stages[layer]
    columns = dyrate_step.columns(stage)
    if columns is not None:
        key, value = gather_tokens(key, columns), gather_tokens(value, columns)
    mask = dyrate_step.mask(stage)
    mask = None if mask is None else mask[:, :, -query.shape[2] :]
    if layer in dyrate_step.observed:
        last_mask = None if mask is None else mask[:, :, -1:]
        dyrate_step.statistics[layer] = last_query_statistics(
            query[:, :, -1:], key, last_mask, scaling, stage
        )
    output, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    return output, None


def last_query_statistics(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, stage: Stage
) -> Statistics:
    """Recompute one attention row: query [batch, heads, 1, dim], key [batch, kv heads, n, dim], mask [batch,
    1, 1, n].

    The keys are those of `stage`, then those of generated tokens.
    """
    batch, heads, _, width = query.shape
    kv_heads = key.shape[1]
    # The heads that share keys become rows of one product, so that keys are not repeated.
    grouped = query.float().reshape(batch, kv_heads, heads // kv_heads, width)
    logits = grouped @ key.float().transpose(-1, -2) * scaling
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    weights = logits.softmax(dim=-1).reshape(batch, heads, -1)
    prompt, generated = weights[..., : stage.width], weights[..., stage.width :]
    class_mass = torch.cat([prompt @ stage.class_one_hot, generated.sum(dim=-1, keepdim=True)], dim=-1)
    visual_slots = stage.visual_slots.clamp_min(0)[:, None].expand(-1, heads, -1)
    head_scores = prompt.gather(2, visual_slots).masked_fill(~stage.present[:, None], 0)
    return Statistics(class_mass, head_scores, stage.present)


def no_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
    """Stand in for transformers' mask builder: masks differ by layer, so `attention_forward` makes them."""
    if attention_mask is not None:
        raise DyrateError(
            "a forward pass reached the text model without passing the hooks: call the whole model, "
            "model(...) or model.generate(...), and no other model that shares its config"
        )


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, no_mask)
