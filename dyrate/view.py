"""What a reduction method sees when it is asked which visual tokens to keep."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from dyrate.attention import Statistics
from dyrate.cache import Stage, gather_tokens
from dyrate.errors import DyrateError
from dyrate.finite import witness


@dataclass(frozen=True, eq=False)
class View:
    """The state of a batch on entering one layer; B rows, V the largest number of visual tokens of a row."""

    layer: int
    """The layer being entered."""
    step: int
    """0 at prefill, t >= 1 at the t-th decode step."""
    stage: Stage
    """The tokens that this layer holds."""
    hidden_states: Tensor
    """FloatTensor [B, slots, hidden] at prefill, [B, 1, hidden] at decode: the input of this layer."""
    statistics: Mapping[int, Statistics]
    """Statistics of this step, by layer: those of the method's statistics layers that have run."""
    previous: Mapping[int, Statistics]
    """Statistics of all of the method's statistics layers at the step before; empty at prefill."""
    state: dict[str, Tensor]
    """Whatever the method wants to remember until the next call: tensors [B, ...], which follow their rows in
    beam search. Emptied at each prefill.
    """
    row_seeds: Callable[[int], list[int]]
    """At prefill: seed -> one seed per row, made of it and the row's own tokens and pixels."""
    witnesses: dict[str, Tensor]
    """By name, what `expect_finite` has been told at this step."""

    def __post_init__(self) -> None:
        for name in ("statistics", "previous"):
            where = f"on entering layer {self.layer} at step {self.step}, view.{name} has"
            object.__setattr__(self, name, _Statistics(getattr(self, name), where))

    @property
    def present(self) -> Tensor:
        """BoolTensor [B, V]: the visual tokens that this layer holds."""
        return self.stage.present

    @property
    def visual_counts(self) -> Tensor:
        """LongTensor [B]: number of visual tokens that this layer holds."""
        return self.stage.visual_counts

    @property
    def valid(self) -> Tensor:
        """BoolTensor [B, V]: which entries stand for a visual token at all."""
        return self.stage.layout.valid

    @property
    def visual_tokens(self) -> Tensor:
        """LongTensor [B]: V of each row, before any reduction."""
        return self.stage.layout.visual_tokens

    @property
    def scores(self) -> Tensor:
        """FloatTensor [B, V]: the newest query's attention, averaged over heads, in the deepest statistics
        layer that has run; -inf where a token is not present.
        """
        return self._nearest().scores.masked_fill(~self.present, float("-inf"))

    @property
    def class_mass(self) -> Tensor:
        """FloatTensor [B, 4]: its mass on sys, img, ins, res in the same layer, averaged over heads."""
        return self._nearest().class_mass.mean(dim=1)

    @property
    def visual_states(self) -> Tensor:
        """FloatTensor [B, V, hidden], at prefill: states of the visual tokens; 0 where one is absent."""
        states = gather_tokens(self.hidden_states, self.stage.visual_slots.clamp_min(0))
        return states.masked_fill(~self.present[:, :, None], 0)

    def expect_finite(self, name: str, values: Tensor) -> None:
        """Let the generation fail, naming row and step, if any of `values` [B, ...] is NaN or infinite.

        For numbers of the method's own, from which NaN would silently make a choice of tokens.
        """
        self.witnesses[name] = witness(values)

    def _nearest(self) -> Statistics:
        return self.statistics[max(self.statistics, default=self.layer - 1)]


class _Statistics(Mapping[int, Statistics]):
    """Statistics by layer; a `DyrateError` that says which there are, for a layer that has none."""

    def __init__(self, found: Mapping[int, Statistics], where: str) -> None:
        self._found, self._where = found, where

    def __getitem__(self, layer: int) -> Statistics:
        try:
            return self._found[layer]
        except KeyError:
            known = f", only of {', '.join(map(str, sorted(self)))}" if self else ""
        raise DyrateError(
            f"{self._where} no statistics of layer {layer!r}{known}: statistics_layers must name it, and "
            "those of this step come from layers before the one entered"
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
