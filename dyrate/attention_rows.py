"""What queries look at in one layer: the rows of attention that methods read."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.token_set import TokenSet


@dataclass(frozen=True, eq=False)
class PromptAttention:
    """What several queries of the prompt look at in one layer, in float32; Q queries of each row."""

    weights: Tensor
    """FloatTensor [batch, heads, Q, slots]; a row of the softmax for each query, 0 for one that is padding.
    """
    queries: Tensor
    """BoolTensor [batch, Q]: which queries are tokens; shorter rows have padding in front."""
    tokens: TokenSet

    @cached_property
    def visual(self) -> Tensor:
        """FloatTensor [batch, heads, Q, V]: attention on each visual token; 0 where it is not seen."""
        return on_slots(self.tokens.visual_slots, self.weights)

    @cached_property
    def instruction(self) -> Tensor:
        """FloatTensor [batch, heads, Q, T]: attention on each of the row's T instruction tokens."""
        return on_slots(self.tokens.instruction_slots, self.weights)


class WholeRows(ABC):
    """All that the newest query of each row looks at in one layer, slot by slot, wherever its keys lie."""

    weights: Tensor
    """FloatTensor [batch, heads, slots], in float32: a row of the softmax; 0 for a slot that is not seen."""

    @abstractmethod
    def by_class(self, weights: Tensor) -> Tensor:
        """FloatTensor [batch, heads, 4]: what is seen as these weights are, [batch, heads, slots], summed by
        class: sys, img, ins, res.
        """

    @property
    @abstractmethod
    def places(self) -> Tensor:
        """LongTensor [batch, slots]: the tokens of each row that are seen, numbered from 0 without gaps in
        their order, which slots need not follow; -1 for a slot that is not seen.
        """

    @property
    @abstractmethod
    def visual_slots(self) -> Tensor:
        """LongTensor [batch, V]: the slot of each visual token, -1 for one that is not seen."""


@dataclass(frozen=True, eq=False)
class PromptRows(WholeRows):
    """Those over prompt tokens, which generated ones follow."""

    weights: Tensor
    tokens: TokenSet

    def by_class(self, weights: Tensor) -> Tensor:
        """Sum them."""
        prompt, generated = weights[..., : self.tokens.width], weights[..., self.tokens.width :]
        # Sums and no product of matrices, of which the ledger counts one for each row that is read.
        by_class = (prompt[..., None] * self.tokens.class_one_hot[:, None]).sum(dim=-2)
        return torch.cat([by_class, generated.sum(dim=-1, keepdim=True)], dim=-1)

    @property
    def places(self) -> Tensor:
        """Slots follow the order of tokens."""
        tokens = self.tokens
        newest = torch.arange(self.weights.shape[-1] - tokens.width, device=tokens.slots.device)
        of_prompt = tokens.position_ids.masked_fill(~tokens.valid, -1)
        return torch.cat([of_prompt, tokens.lengths[:, None] + newest], dim=1)

    @property
    def visual_slots(self) -> Tensor:
        """Those of the set."""
        return self.tokens.visual_slots


@dataclass(frozen=True, eq=False)
class Attention:
    """What the newest query of each row looks at in one layer, in float32."""

    class_mass: Tensor
    """FloatTensor [batch, heads, 4]: attention mass on sys, img, ins, res; sums to 1."""
    head_scores: Tensor
    """FloatTensor [batch, heads, V]: attention on each visual token; 0 where it is not seen."""
    seen: Tensor
    """BoolTensor [batch, V]: the visual tokens seen."""
    of_prompt: PromptAttention | None = None
    """That of more queries, at prefill and where the method's needs name them."""
    whole: WholeRows | None = None
    """All weights, where needs ask so."""

    @cached_property
    def scores(self) -> Tensor:
        """FloatTensor [batch, V]: attention on each visual token, mean over heads; -inf where unseen."""
        return self.head_scores.mean(dim=1).masked_fill(~self.seen, float("-inf"))

    @property
    def prompt(self) -> PromptAttention:
        """That of the prompt's queries; a `DyrateError` where no need names them."""
        if self.of_prompt is None:
            raise DyrateError(
                "only the newest query's attention was read: needs must ask for that of 'instruction' or "
                "'all' queries of this layer, which is there at prefill only"
            )
        return self.of_prompt

    def mass_at(self, temperature: float) -> Tensor:
        """FloatTensor [batch, heads, 4]: class mass as it is where logits are divided by `temperature`.

        Raises `DyrateError` where needs do not ask for whole rows, and for the attention of a step before.
        """
        if self.whole is None:
            raise DyrateError(
                "only class mass and the attention on visual tokens were read: needs must ask for "
                "whole_rows, which are those of this step"
            )
        return self.whole.by_class((self.whole.weights.log() / temperature).softmax(dim=-1))

    def of_step_before(self) -> "Attention":
        """Return what the next step may see of it."""
        return (
            self
            if self.of_prompt is None and self.whole is None
            else replace(self, of_prompt=None, whole=None)
        )

    def select_rows(self, rows: Tensor) -> "Attention":
        """Return the attention of the batch made of `rows` of this one, of the newest query."""
        return Attention(self.class_mass[rows], self.head_scores[rows], self.seen[rows])


def on_slots(slots: Tensor, weights: Tensor) -> Tensor:
    """Return of attention on all slots that on `slots` [batch, n], [batch, heads, ..., n]; 0 where one is -1.
    """
    slots = slots.view(len(slots), *[1] * (weights.dim() - 2), -1).expand(*weights.shape[:-1], -1)
    return weights.gather(-1, slots.clamp_min(0)).masked_fill(slots < 0, 0)
