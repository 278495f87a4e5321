"""A control for time: as many tokens as a method leaves, without the choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dyrate.bench.contenders import Contender
from dyrate.contract import Contract
from dyrate.ranking import top
from dyrate.reduction import Needs, PrefillView, ReductionMethod, hyperparameter
from dyrate.speed.documents import GIVEN


@dataclass(frozen=True)
class Given(ReductionMethod):
    """The first tokens of each row stay, in each layer as many as are given.

    A method's time beyond this one's is what its choice takes: the attention and features that it reads, the
    ranking, and what it merges.
    """

    name: ClassVar[str] = "given"

    visual: int = hyperparameter("visual tokens of a row", minimum=1)
    counts: tuple[int, ...] = hyperparameter("those that are left, by layer", minimum=0)
    positions: str = hyperparameter("as the method has them", choices=("original", "contiguous"))

    def needs(self, depth: int) -> Needs:
        """To be asked wherever the number falls."""
        before = (self.visual, *self.counts)
        falls = tuple(layer for layer, count in enumerate(self.counts) if count < before[layer])
        return Needs(prefill=falls, positions=self.positions)  # type: ignore[arg-type]

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep the first."""
        counts = view.visual_tokens.clamp_max(self.counts[view.layer])
        return top(-view.present.cumsum(dim=1).float(), counts, view.present)

    @property
    def label(self) -> str:
        """Without the numbers."""
        return "As many tokens, not chosen"


def given(contenders: Sequence[Contender], model: Any, inputs: dict[str, Tensor]) -> list[Contender]:
    """Return a control of each contender that drops tokens at prefill, but of those that change how images
    are encoded. Rows whose methods keep different numbers get their mean.
    """
    rows, images = len(inputs["input_ids"]), inputs["input_ids"] == model.config.image_token_id
    text = int(inputs["attention_mask"].sum() - images.sum())
    visual = int(images.sum()) // rows
    found = []
    for contender in contenders:
        method = contender.method
        if method is None or type(method).install is not Contract.install:
            continue
        tokens = contender.generate(model, inputs, 1, _nothing).work.prefill.tokens
        contender.close()
        counts = tuple((count - text) // rows for count in tokens)
        if min(counts) < visual:
            control = Given(visual=visual, counts=counts, positions=method.needs(len(counts)).positions)
            found.append(Contender(f"{GIVEN}{method.label}", control, contender.fast))
    return found


def _nothing() -> None:
    pass
