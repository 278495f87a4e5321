"""PyramidDrop: drop visual tokens at a few depths, each time by what the next layer would look at."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.methods.budget import budget_of, solved
from dyrate.methods.layer_numbers import layers_of
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import top
from dyrate.reduction import Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class PyramidDrop(ReductionMethod):
    """Keep a smaller and smaller share of the visual tokens from stage to stage.

    On entering each of `layers`, the int(ratio V) visual tokens stay that the prompt's last token attends to
    most in that very layer, averaged over heads: its query and the keys are computed before the layer runs.
    Then all tokens are numbered without gaps, by default. The layers are 8, 16 and 24 of 32: the quarters of
    the depth, rounded.

    This is inference as in the official code (Cooperx521/PyramidDrop, `pdrop_rank_drop` of
    `llava/model/modeling_llama_pdrop.py`), which is given the layers of a 32-layer model at any depth. Left
    out is training, where all tokens before an answer are queries. The code takes V of the i-th image for the
    i-th row, so it knows one image per row; here V, and the ranking, are those of the whole row.
    """

    name: ClassVar[str] = "pyramiddrop"
    title: ClassVar[str] = "PyramidDrop"
    paper: ClassVar[str] = "arXiv:2410.17247"
    examples = (
        {},
        {"layers": [1, 2, 5], "ratios": [0.7, 0.7, 0.4]},
        {"layers": [3], "ratios": [0.3], "positions": "original"},
    )
    keeps_everything = ({"ratios": [1.0, 1.0, 1.0]},)

    ratios: tuple[float, ...] = hyperparameter(
        "shares of the visual tokens that stay, stage by stage",
        default=(0.5, 0.25, 0.125),
        minimum=0,
        maximum=1,
    )
    budget: float | None = budget_of("ratios")
    layers: tuple[int, ...] = hyperparameter(
        "layers on entering which tokens leave; empty for 8, 16 and 24 of 32 layers", default=(), minimum=1
    )

    positions: str = positions_of("contiguous", "what is left")

    def __post_init__(self) -> None:
        """Check that there is a ratio for each layer, and none above the one before."""
        super().__post_init__()
        stages = len(self.layers) or 3
        if self.budget is not None:
            return
        if len(self.ratios) != stages or list(self.ratios) != sorted(self.ratios, reverse=True):
            raise DyrateError(
                f"PyramidDrop(ratios={self.ratios!r:.80}): expected {stages} shares, as many as layers, none "
                "above the one before"
            )

    def needs(self, depth: int) -> Needs:
        """The attention of the layers entered."""
        layers = self._layers(depth)
        return Needs(prefill=layers, ahead=layers, positions=cast(Positions, self.positions))

    def _layers(self, depth: int) -> tuple[int, ...]:
        return layers_of(str(self), self.layers, (8, 16, 24), depth)

    def ratios_in(self, depth: int) -> tuple[float, ...]:
        """Return the shares in a model of `depth` layers: with a budget x, x^2, x^3, ..., as by default."""
        if self.budget is None:
            return self.ratios
        layers = self._layers(depth)
        spans = [end - start for start, end in zip(layers, (*layers[1:], depth), strict=True)]

        def mean(share: float) -> float:
            left = (span * share ** (stage + 1) for stage, span in enumerate(spans))
            return (layers[0] + sum(left)) / depth

        share = solved(self, self.budget, mean)
        return tuple(share ** (stage + 1) for stage in range(len(layers)))

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise `DyrateError` also for a budget that the layers before the first stage have used up."""
        super().check(num_layers, num_heads)
        self.ratios_in(num_layers)

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep the best of this stage."""
        counts = view.state.get("counts")
        if counts is None:
            ratios = torch.tensor(self.ratios_in(view.depth), dtype=torch.float64, device=view.present.device)
            counts = (view.visual_tokens[:, None] * ratios).long()
        view.state["counts"] = counts[:, 1:]  # of the stages to come
        scores = view.attention[view.layer].scores
        view.expect_finite("scores", scores.masked_fill(~view.present, 0))
        return top(scores, counts[:, 0], view.present)
