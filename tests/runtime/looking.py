"""Methods that look at a view and keep everything, and what they saw."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dyrate import Needs, PrefillView, ReductionMethod
from dyrate.cost.work import work_of
from tests.runtime.example_rules import Reader
from tests.runtime.reference import Rule
from tests.tiny import tiny_inputs

PATCHES = Needs(prefill=(0,), tower={-2: ("states",)}, question=True)
"""Of methods that compare patches with the question."""
ROWS = {"rows": [7, 3, 20, 11], "images": [1, 2, 0, 1]}


@dataclass(frozen=True)
class Looking(ReductionMethod):
    """Calls a function with the view of one layer, and keeps everything."""

    asked: ClassVar[Needs]
    look: ClassVar[Any]

    def needs(self, depth: int) -> Needs:
        return self.asked

    def prefill(self, view: PrefillView) -> None:
        type(self).look(view)


def looking(needs: Needs, look: Any) -> ReductionMethod:
    return type("Looking", (Looking,), {"asked": needs, "look": staticmethod(look)})()


def seen(needs: Needs, look: Any, model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    """What `look` returns of the view, as plain values."""
    found: list[Any] = []
    with torch.no_grad(), looking(needs, lambda view: found.append(look(view)))(model, **options):
        model(**inputs)
    return found[-1]


class Watched(Rule):
    """Remembers the attention of the layer before."""

    layers = (3,)

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        self.found = self.attention
        return held


def macs_of(method: ReductionMethod, model: Any) -> tuple[int, int]:
    """Attention rows read at prefill, in keys, and multiply-accumulates of what the tower was asked for."""
    with method(model, questions=Reader()) as run:
        model.generate(**tiny_inputs([7]), max_new_tokens=2, do_sample=False)
    work = work_of(run, method).prefill
    return work.scored, work.own_macs


@dataclass(frozen=True)
class Ahead(ReductionMethod):
    """Looks at layers before and after they run, at prefill and at every step."""

    found: ClassVar[list[tuple[Any, Any]]]

    def needs(self, depth: int) -> Needs:
        asked = (2, 3)
        return Needs(prefill=asked, decode=asked, attention=(2,), ahead=(2,), positions="contiguous")

    def prefill(self, view: PrefillView) -> Tensor | None:
        return self._look(view)

    def decode(self, view: Any) -> Tensor | None:
        return self._look(view)

    def _look(self, view: Any) -> Tensor | None:
        if view.layer == 2:
            self.found.append((view.attention[2], None))
            return None
        self.found[-1] = self.found[-1][0], view.attention[2]
        return None if view.step else view.present & (torch.arange(view.present.shape[1]) % 3 > 0)
