"""Which prompt tokens of each row some layers hold or attend to, and what follows from it: slots, masks."""

from collections.abc import Set
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.tokens import TokenClass, TokenLayout

Blocked = Set[tuple[str, str]]
"""(query class, key class), as `Needs.blocked` names them."""
_MASK_CLASSES = ("sys", "img", "ins", "res", "cmp", "padding")
"""The token classes in the order of `TokenClass`, and two that only masks tell apart."""


def gather_tokens(states: Tensor, columns: Tensor) -> Tensor:
    """Pick `columns` [batch, n] of `states` [batch, tokens, width] or [batch, heads, tokens, width], where
    these are: a layer's may be on another device than the token sets.
    """
    columns = columns.to(states.device)
    index = columns[:, None, :, None] if states.dim() == 4 else columns[:, :, None]
    return states.gather(
        states.dim() - 2, index.expand(*states.shape[:-2], columns.shape[1], states.shape[-1])
    )


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Prompt tokens of each row: what some layers cache, or what a step attends to in them.

    Generated tokens follow them in every row alike. Rows with fewer tokens than the longest one have padding
    slots. A set never changes: dropping tokens or picking rows makes a new one, so that layers share sets,
    and whatever is derived from one is computed once.
    """

    layout: TokenLayout
    slots: Tensor
    """LongTensor [batch, slots]: the prompt column that each slot holds, -1 for padding."""
    padded: bool
    """Whether any slot of any row is padding."""
    most_visual: int
    """The most visual tokens of a row, or more."""
    complete: bool
    """Whether every row surely has all its visual tokens."""
    next_position: Tensor | None = None
    """LongTensor [batch]: position of the first generated token where positions were renumbered, else None.
    """

    @classmethod
    def whole(cls, layout: TokenLayout) -> "TokenSet":
        """Return the set that holds the whole prompt, padding columns included."""
        columns = torch.arange(layout.classes.shape[1], device=layout.classes.device)
        slots = torch.where(layout.classes == TokenClass.PADDING, -1, columns)
        return cls(layout, slots, layout.padded, most_visual=layout.num_visual, complete=True)

    def beside(self, states: Tensor) -> Tensor:
        """Return states on the device of this set, which all views of a generation are on; a layer may be on
        another one.
        """
        return states.to(self.slots.device)

    @property
    def width(self) -> int:
        """Number of slots of every row."""
        return self.slots.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """BoolTensor [batch, slots]: which slots hold a token."""
        return self.slots >= 0

    @cached_property
    def lengths(self) -> Tensor:
        """LongTensor [batch]: prompt tokens of each row."""
        return self.valid.sum(dim=1)

    @cached_property
    def position_ids(self) -> Tensor:
        """LongTensor [batch, slots]: the tokens of each row numbered without gaps; 0 at padding."""
        return (self.valid.cumsum(dim=1) - 1).clamp_min(0)

    @cached_property
    def visual_index(self) -> Tensor:
        """LongTensor [batch, slots]: which visual token a slot holds, -1 for text and padding."""
        return self._of_slots(self.layout.visual_index)

    @cached_property
    def class_one_hot(self) -> Tensor:
        """FloatTensor [batch, slots, 3]: sys, img, ins; all zero at padding."""
        prompt_classes = torch.arange(TokenClass.RES, device=self.slots.device)
        return (self._of_slots(self.layout.classes)[..., None] == prompt_classes).float()

    @cached_property
    def visual_slots(self) -> Tensor:
        """LongTensor [batch, V]: the slot of each visual token, -1 for one that is not in the set."""
        batch, num_visual = len(self.slots), self.layout.num_visual
        slots = torch.full((batch, num_visual + 1), -1, device=self.slots.device)
        spare = torch.where(self.visual_index < 0, num_visual, self.visual_index)
        slots.scatter_(1, spare, torch.arange(self.width, device=self.slots.device).expand(batch, -1))
        return slots[:, :num_visual]

    @cached_property
    def present(self) -> Tensor:
        """BoolTensor [batch, V]: the visual tokens in the set."""
        return self.visual_slots >= 0

    @cached_property
    def visual_counts(self) -> Tensor:
        """LongTensor [batch]: their number."""
        return self.present.sum(dim=1)

    @cached_property
    def instruction_slots(self) -> Tensor:
        """LongTensor [batch, Q]: slots of instruction tokens, ascending; -1 in front of shorter rows."""
        instruction = self._of_slots(self.layout.classes) == TokenClass.INS
        order = instruction.to(torch.uint8).argsort(dim=1, stable=True)
        order = order[:, self.width - int(instruction.sum(dim=1).max()) :]
        return torch.where(instruction.gather(1, order), order, -1)

    def prefill_mask(self, blocked: Blocked = frozenset()) -> Tensor | None:
        """BoolTensor [batch, 1, slots, slots], causal, None where plain causal attention is right.

        `blocked`: (query class, key class) that do not see each other. Padding slots see themselves, so that
        no row of the softmax is empty.
        """
        if not self.padded and not blocked:
            return None
        causal = torch.ones(self.width, self.width, dtype=torch.bool, device=self.slots.device).tril()
        itself = torch.eye(self.width, dtype=torch.bool, device=self.slots.device)
        seen = causal & self.valid[:, None, None, :]
        if blocked:
            classes = self._mask_classes
            seen = seen & self._allowed(blocked)[classes[:, None, :, None], classes[:, None, None, :]]
        return seen | itself

    def decode_mask(self, generated: int, blocked: Blocked = frozenset()) -> Tensor | None:
        """BoolTensor [batch, 1, 1, slots + generated], None where a generated token sees all there is."""
        if not self.padded and not any(query == "res" for query, _ in blocked):
            return None
        seen = self.valid
        if blocked:
            seen = seen & self._allowed(blocked)[_MASK_CLASSES.index("res")][self._mask_classes]
        return pad(seen, (0, generated), value=True)[:, None, None, :]

    @cached_property
    def _mask_classes(self) -> Tensor:
        """LongTensor [batch, slots]: index into `_MASK_CLASSES`; the last one at padding."""
        classes = self._of_slots(self.layout.classes)
        compression = self._of_slots(self.layout.compression.long()) == 1
        classes = classes.masked_fill(compression, _MASK_CLASSES.index("cmp"))
        return classes.masked_fill(~self.valid, len(_MASK_CLASSES) - 1)

    def _allowed(self, blocked: Blocked) -> Tensor:
        """BoolTensor [classes, classes]: whose queries see whose keys."""
        shape = len(_MASK_CLASSES), len(_MASK_CLASSES)
        allowed = torch.ones(shape, dtype=torch.bool, device=self.slots.device)
        for query, key in blocked:
            allowed[_MASK_CLASSES.index(query), _MASK_CLASSES.index(key)] = False
        return allowed

    def restrict(
        self, keep: Tensor, *, renumber: bool = False, ranks: Tensor | None = None
    ) -> tuple["TokenSet", Tensor | None]:
        """Drop the visual tokens that are not in `keep` (BoolTensor [batch, V]).

        With `ranks` (LongTensor [batch, V]) those that stay change places among themselves, lowest first.

        Returns the new set, this one if nothing is dropped, and the slots of this one that it consists of
        (LongTensor [batch, new slots]), None if no slot could go because the longest row keeps all it has.
        `renumber` gives the tokens of each row new positions. Reads the new lengths back to the host.
        """
        held = self._held(keep)
        lengths = held.sum(dim=1)
        visual = (held & (self.visual_index >= 0)).sum(dim=1)
        # A stable sort puts what is dropped on the left and leaves the order of what is kept. Before the host
        # waits for the numbers, as all that it asks for after that keeps the device waiting.
        order = held.to(torch.uint8).argsort(dim=1, stable=True)
        slots = torch.where(held, self.slots, -1)
        if ranks is not None:
            exchanged = self._by_rank(held, ranks)
            slots, order = slots.gather(1, exchanged), exchanged.gather(1, order)
            in_order = torch.where(held.gather(1, order), self.slots.gather(1, order), -1)
        else:
            in_order = slots.gather(1, order)
        any_dropped = (self.valid & ~held).any()
        shortest, longest, most_visual, any_dropped = torch.stack(
            [lengths.min(), lengths.max(), visual.max(), any_dropped]
        ).tolist()
        if not any_dropped and ranks is None:
            return self, None
        columns = None if ranks is None else exchanged
        if longest < self.width:
            columns, slots = (part[:, self.width - longest :] for part in (order, in_order))
        next_position = lengths if renumber else self.next_position
        kept = TokenSet(
            self.layout,
            slots,
            padded=shortest < longest,
            most_visual=most_visual,
            complete=False,
            next_position=next_position,
        )
        return kept, columns

    def _by_rank(self, held: Tensor, ranks: Tensor) -> Tensor:
        """LongTensor [batch, slots]: whose token each slot gets; visual ones among `held` stand by rank."""
        visual = held & (self.visual_index >= 0)
        last = torch.iinfo(ranks.dtype).max
        rank = ranks.gather(1, self.visual_index.clamp_min(0)).masked_fill(~visual, last)
        columns = torch.arange(self.width, device=held.device).expand_as(held)
        # As many places as tokens: the n-th place gets the token of the n-th rank; the rest stays.
        places = (~visual).to(torch.uint8).argsort(dim=1, stable=True)
        sources = torch.where(visual.gather(1, places), rank.argsort(dim=1, stable=True), places)
        return columns.scatter(1, places, sources)

    def without(self, keep: Tensor) -> "TokenSet":
        """Drop what is not in `keep` (BoolTensor [batch, V]) and leave its slots empty.

        Nothing is read back to the host.
        """
        slots = torch.where(self._held(keep), self.slots, -1)
        return replace(self, slots=slots, padded=True, complete=False)

    def _held(self, keep: Tensor) -> Tensor:
        """BoolTensor [batch, slots]: text, and the visual tokens in `keep`."""
        return self.valid & ((self.visual_index < 0) | keep.gather(1, self.visual_index.clamp_min(0)))

    def select_rows(self, rows: Tensor, layout: TokenLayout) -> "TokenSet":
        """Return the set of the batch made of `rows`; `layout` is the layout of that batch."""
        next_position = None if self.next_position is None else self.next_position[rows]
        return replace(self, layout=layout, slots=self.slots[rows], next_position=next_position)

    def _of_slots(self, prompt: Tensor) -> Tensor:
        return prompt.gather(1, self.slots.clamp_min(0)).masked_fill(~self.valid, -1)
