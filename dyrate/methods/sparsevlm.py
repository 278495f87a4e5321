"""SparseVLM: at a few depths keep the visual tokens that the question looks at, and recycle some others."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.errors import DyrateError
from dyrate.methods.budget import budget_of, solved
from dyrate.methods.layer_numbers import layers_of
from dyrate.methods.recycling import recycled, recycled_share
from dyrate.ranking import top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter

PUBLISHED_TOKENS = 576
BUDGETS = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""By version and published mean: visual tokens that stay after each sparse layer."""
HEADS = 14


@dataclass(frozen=True)
class SparseVLM(ReductionMethod):
    """Keep the visual tokens that the question's raters attend to at a few sparse layers, stage by stage.

    Raters are the instruction tokens whose softmax(visual states . text states) before layer 0, averaged over
    visual tokens, is above the mean; all of them where none is. A token's score is the raters' attention at
    the sparse layer, averaged over heads and raters. The best enter the next layer; the sparse layer itself
    runs on all. `tokens` counts them for V = 576: of another V it is round(n V / 576), and all where there
    are no more. Sparse layers are 2, 6 and 15 of 32, at other depths as deep.

    Version 1.5 merges some of those that leave into a few new tokens (`recycling`). These stand behind the
    kept visual ones, and stay or leave at the next stage like them; positions are numbered without gaps.
    Where text stands between a row's images, each stands behind those of its centre's image.
    Version 2.0 (SparseVLM+) merges nothing and leaves positions alone. It divides attention by the product,
    over sqrt(D), of vectors of ones that RoPE turned by the two positions (with LLaVA-1.5's heads positive
    up to a distance of 1706), and only those 14 heads count whose sum of that, from raters to visual tokens,
    is largest; all of a model that has no more.

    So does the official code (Gumpest/SparseVLMs, `modelling_sparse_llama.py`, `score.py` and `utils.py` of
    `llava/model/language_model/`), but: it has layers 2, 6 and 15 at any depth; at least one token leaves at
    each; scores are in half precision; a cluster's sum is divided by its number plus 1e-6; noise from the
    global random state is added to densities (here with `tie_noise`, of a seed made of the row); and it is
    for one unpadded row. A row's images are one set of tokens here. What the paper's first version does,
    counts by the rank of the attention, is in the first commit of the code only.
    """

    name: ClassVar[str] = "sparsevlm"
    title: ClassVar[str] = "SparseVLM"
    paper: ClassVar[str] = "arXiv:2410.04417"
    examples = (
        {},
        {"tokens": [36, 30, 29], "layers": [1, 2, 4], "tie_noise": True},
        {"tokens": [400, 200], "layers": [0, 3]},
        {"version": "2.0", "heads": 2},
        {"version": "2.0", "tokens": [400, 100], "layers": [1, 3], "heads": 3, "divide": False},
    )
    keeps_everything = ({"tokens": [576, 576, 576]}, {"tokens": [576, 576, 576], "version": "2.0"})

    tokens: int | tuple[int, ...] = hyperparameter(
        "visual tokens of 576 that stay after each sparse layer; 192, 128, 96 or 64 for the published lists",
        default=192,
        minimum=0,
        label=lambda tokens: "+".join(map(str, tokens)) if isinstance(tokens, tuple) else str(tokens),
    )
    budget: float | None = budget_of("tokens")
    version: str = hyperparameter("of the official code", default="1.5", choices=("1.5", "2.0"))
    layers: tuple[int, ...] = hyperparameter(
        "sparse layers; empty for 2, 6 and 15 of 32 layers", default=(), minimum=0
    )
    tie_noise: bool = hyperparameter("1.5: whether noise below 1e-6 is added to densities", default=False)
    heads: int = hyperparameter("2.0: number of heads that count", default=HEADS, minimum=1)
    divide: bool = hyperparameter("2.0: whether attention is divided by that of ones", default=True)

    def __post_init__(self) -> None:
        """Check that there is a count for each layer, and no setting without effect."""
        super().__post_init__()
        stages, expected = len(self.layers) or 3, ""
        if self.budget is not None:
            pass
        elif isinstance(self.tokens, tuple):
            if len(self.tokens) != stages:
                expected = f"{stages} counts, as many as layers"
        elif self.tokens not in BUDGETS[self.version] or stages != 3:
            expected = f"{', '.join(map(str, BUDGETS[self.version]))} with three layers, or a list of counts"
        if expected:
            raise DyrateError(f"SparseVLM(tokens={self.tokens!r:.80}): expected {expected}")
        if self.tie_noise if self.version == "2.0" else (self.heads, self.divide) != (HEADS, True):
            raise DyrateError(
                f"SparseVLM(version={self.version!r}): tie_noise is for 1.5, heads and divide are for 2.0"
            )

    @property
    def full_title(self) -> str:
        """The published name of either version."""
        return "SparseVLM" if self.version == "1.5" else "SparseVLM+"

    def needs(self, depth: int) -> Needs:
        """The instruction's attention at the sparse layers, to be asked for on entering those after them."""
        sparse = self._sparse(depth)
        return Needs(
            prefill=(0, *(layer + 1 for layer in sparse)),
            attention=dict.fromkeys(sparse, "instruction"),
            positions="contiguous" if self.version == "1.5" else "original",
        )

    def _sparse(self, depth: int) -> tuple[int, ...]:
        return layers_of(str(self), self.layers, (2, 6, 15), depth)

    def stages_in(self, depth: int) -> tuple[float, ...]:
        """Return the tokens of 576 that stay after each sparse layer of a model of `depth` layers.

        With a budget they are in proportion as those for 192, or, of another number of layers, all the same;
        with version 1.5 the tokens made of others are part of it.
        """
        if self.budget is None:
            return self.tokens if isinstance(self.tokens, tuple) else BUDGETS[self.version][self.tokens]
        sparse = self._sparse(depth)
        shape = BUDGETS[self.version][192] if len(sparse) == 3 else (1,) * len(sparse)
        ends = (*sparse[1:], depth - 1)

        def mean(part: float) -> float:
            left, total = 1.0, sparse[0] + 1.0
            for layer, end, stay in zip(sparse, ends, shape, strict=True):
                wanted = min(left, part * stay / shape[-1])
                left = wanted + (recycled_share(left - wanted) if self.version == "1.5" else 0)
                total += (end - layer) * left
            return total / depth

        part = solved(self, self.budget, mean)
        return tuple(PUBLISHED_TOKENS * min(1, part * stay / shape[-1]) for stay in shape)

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise `DyrateError` also for a budget that the layers up to the first sparse one have used up."""
        super().check(num_layers, num_heads)
        self.stages_in(num_layers)

    def prefill(self, view: PrefillView) -> Tensor | Kept | None:
        """Choose raters before the first layer, and tokens at each stage."""
        state = view.state
        if not view.layer:
            stages = torch.tensor(self.stages_in(view.depth), dtype=torch.float64, device=view.present.device)
            state["counts"] = torch.round(view.visual_tokens[:, None] * stages / PUBLISHED_TOKENS).long()
            state["raters"] = _raters(view)
            return None
        wanted, state["counts"] = state["counts"][:, 0], state["counts"][:, 1:]
        scores = self._scores(view, state["raters"])
        view.expect_finite("scores", scores.masked_fill(~view.present, 0))
        keep = top(scores, wanted, view.present)
        if self.version == "2.0":
            return keep
        if "order" not in state:
            state["order"] = torch.arange(keep.shape[1], device=keep.device).expand(keep.shape)
            slots = view.attention[view.layer - 1].prompt.tokens.visual_slots
            state["runs"] = pad((slots.diff(dim=1) > 1).long().cumsum(dim=1), (1, 0))
        kept = recycled(view, scores, keep, state["order"], self._noise(view) if self.tie_noise else None)
        if kept.order is None:
            return kept
        state["order"] = kept.order
        return replace(kept, order=state["runs"] * (kept.order.max() + 1) + kept.order)

    def _scores(self, view: PrefillView, raters: Tensor) -> Tensor:
        """FloatTensor [B, V]: the attention of raters (BoolTensor [B, Q])."""
        pairs = raters[:, :, None] & view.present[:, None]
        attention = view.attention[view.layer - 1].prompt.visual.masked_fill(~pairs[:, None], 0)
        if self.version == "2.0":
            if self.divide:
                attention = attention / _of_ones(view).masked_fill(~pairs, 1)[:, None]
            heads = top(attention.sum(dim=(2, 3)), torch.full_like(view.visual_tokens, self.heads))
            attention = attention * (heads / heads.sum(dim=1, keepdim=True))[:, :, None, None]
        else:
            attention = attention / attention.shape[1]
        return attention.sum(dim=(1, 2)) / raters.sum(dim=1, keepdim=True).clamp_min(1)

    def _noise(self, view: PrefillView) -> Tensor:
        """FloatTensor [B, V]: another one for each row and stage."""
        noise, counts = torch.zeros(view.present.shape), view.visual_tokens.tolist()
        for row, (seed, count) in enumerate(zip(view.row_seeds(view.layer), counts, strict=True)):
            noise[row, :count] = torch.rand(count, generator=torch.Generator().manual_seed(seed))
        return noise.to(view.present.device) * 1e-6


def _raters(view: PrefillView) -> Tensor:
    """BoolTensor [B, Q]: the instruction tokens whose attention ranks."""
    text = view.instruction
    match = view.states.float() @ view.instruction_states.float().transpose(1, 2)
    match = match.masked_fill(~text[:, None], -torch.inf).softmax(dim=2).masked_fill(~text[:, None], 0)
    match = (match * view.present[:, :, None]).sum(dim=1)
    view.expect_finite("match with the image", match)
    view.count_macs(int((view.visual_counts * text.sum(dim=1)).sum()) * view.states.shape[-1])
    raters = text & (match > match.sum(dim=1, keepdim=True) / text.sum(dim=1, keepdim=True).clamp_min(1))
    return torch.where(raters.any(dim=1, keepdim=True), raters, text)


def _of_ones(view: PrefillView) -> Tensor:
    """FloatTensor [B, Q, V]: products of ones, turned by positions of instruction and visual tokens."""
    turned = []
    for cos, sin in (view.instruction_angles, view.angles):
        low, high = sin.float().chunk(2, dim=-1)
        turned.append(cos.float() + torch.cat([-low, high], dim=-1))
    view.count_macs(int((view.instruction.sum(dim=1) * view.visual_tokens).sum()) * turned[0].shape[-1])
    found: Tensor = turned[0] @ turned[1].transpose(1, 2) / turned[0].shape[-1] ** 0.5
    return found
