"""What a reduction method tells the runtime; every function has a default, and most methods override one."""

from dataclasses import dataclass

from torch import Tensor

from dyrate.installation import Installation
from dyrate.needs import Needs
from dyrate.views import DecodeView, PrefillView


@dataclass(frozen=True, eq=False)
class Kept:
    """The answer of a method that also changes what it keeps: sizes as in `PrefillView`."""

    tokens: Tensor
    """BoolTensor [B, V]: the visual tokens that stay."""
    states: Tensor | None = None
    """FloatTensor [B, V, hidden]: their new states on entering the layer; those of other tokens are ignored.
    """
    merged_into: Tensor | None = None
    """LongTensor [B, V], for `run.merged` only: which token each was merged into, perhaps itself; else -1."""
    order: Tensor | None = None
    """LongTensor [B, V], with contiguous positions only: those that stay change places among each other,
    lowest first. Without it they stand as before.
    """


class Contract:
    """The questions that the runtime asks. Rows are handled together and may keep different numbers of
    tokens.

    All visual reduction happens on entering a language layer, layer 0 included: there the prompt's text, the
    projected features and what the vision tower was asked to keep are known at once.
    """

    def needs(self, depth: int) -> Needs:
        """Return what the method needs of a language model of `depth` layers, and when it is asked."""
        return Needs()

    def install(self, parts: Installation) -> None:
        """Say which other parts the model gets, for the length of the `with` block."""

    def prefill(self, view: PrefillView) -> "Tensor | Kept | None":
        """Return which visual tokens stay (BoolTensor [B, V]), `Kept` with their new states, None for all."""
        return None

    def decode(self, view: DecodeView) -> Tensor | None:
        """Return which visual tokens this step attends to from this layer on (BoolTensor [B, V]); None leaves
        all as it is.

        With `Needs.decode_mode` `evict`, the others leave the KV cache of this layer and all deeper ones.
        With `select` the choice is among those cached, and stands until the next layer at which one is made.
        """
        return None

    def own_macs(self, visual_tokens: int, *, decode: bool) -> int:
        """Return the multiply-accumulates of the method's own matrices, for a row at prefill or at one decode
        step; what `needs` costs is counted by itself, and `PrefillView.count_macs` counts what is not known
        here.
        """
        return 0

    @property
    def label(self) -> str:
        """The method in a table."""
        return type(self).__name__
