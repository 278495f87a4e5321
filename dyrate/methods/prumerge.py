"""PruMerge and PruMerge+: outliers of the class token's attention stay, and gather what is like them."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.methods.budget import budget_of
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class PruMerge(ReductionMethod):
    """Keep as many tokens as an image has outliers, add to each what is like it, and append one for the rest.

    On entering layer 0, for each image of P tokens, at positions without gaps:

    1. Attention is the class token's in the layer of the vision tower behind the one that the projector reads
       (LLaVA-1.5: the last), as if it had one head of the whole width. Outliers have more than Q3 + 1.5 (Q3 -
       Q1) of the image's tokens. As many tokens as there are outliers stay, the most attended first, and
       remain in this order. With `ratio` they are int(P ratio).
    2. To the state of each (which the projector reads) are added those of the 32 other tokens, staying ones
       included, whose keys are most like its own by cosine, each times its attention.
    3. One more token stands last: the sum of all states that leave, each times its attention. Its place is
       that of the most attended of them.
    4. The connector projects the states after that.

    So does the official code (42Shawn/LLaVA-PruMerge, `clip_encoder.py`, `token_prune_merge_advanced`), but
    for counting outliers over the whole batch. An image without outliers is the one added token in both.
    Where no token leaves, there is no added one; the code projects a zero. The code needs more than 32
    tokens, and leaves lists of images unpruned.

    Ours, for other models: a tile is an image by itself, of the tokens that unpadding left of it, and
    newlines stay. A tower without class token has the attention that patches receive, as if it had one head;
    one whose last layer the projector reads has all of it of that layer. Of merged patches the states stand
    side by side until they are projected. At `original` positions tokens stand in the image's order.
    """

    name: ClassVar[str] = "prumerge"
    title: ClassVar[str] = "PruMerge"
    paper: ClassVar[str] = "arXiv:2403.15388"
    examples = ({"neighbours": 3}, {"ratio": 0.3, "neighbours": 5}, {"ratio": 1.0})

    ratio: float | None = hyperparameter(
        "share of an image's tokens that stay; null for that of its outliers",
        default=None,
        minimum=0,
        maximum=1,
    )
    budget: float | None = budget_of("ratio")
    neighbours: int = hyperparameter("tokens that are added to each that stays", default=32, minimum=0)
    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """Attention and keys of one layer of the tower, and the states that the projector reads."""
        return Needs(
            prefill=(0,),
            tower={"projected": ("states",), "behind": ("keys", "joint_salience")},
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Read the tower."""
        behind = view.tower("behind")
        choose = partial(
            self._of_size,
            attention=finite(view, "attention", behind.joint_salience),
            keys=behind.keys.flatten(2),
            states=view.tower("projected").states,
        )
        return reduced(view, choose)

    def _of_size(self, images: Images, attention: Tensor, keys: Tensor, states: Tensor) -> Choice:
        """Choose, merge, and project what was merged."""
        view = images.view
        attention, keys, states = map(images.split, (attention, keys, states))
        rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        order, counts = self.arranged(rank, self._shares(attention))
        stays = order < counts[:, None]
        # In order, as far as any image goes: those that stay, and the place of the one for the rest.
        first = order.argsort(dim=1)[:, : int(counts.max()) + 1]
        index = torch.arange(images.size, device=rank.device)
        filled = index[: first.shape[1]] <= counts[:, None]

        keys = normalize(keys.float(), dim=-1)
        merged = self._weights(first, stays, keys, attention) @ states.float()
        view.count_macs(first.numel() * images.size * (keys.shape[-1] + states.shape[-1]))
        projected = view.project(merged[filled].to(states.dtype)[None])[0]
        new = projected.new_zeros(*order.shape, projected.shape[-1])
        new[filled.nonzero()[:, 0], first[filled]] = projected

        seat = first.gather(1, counts[:, None].clamp_max(images.size - 1))
        return Choice(
            keep=order <= counts[:, None],
            states=new,
            into=torch.where(stays, index, seat),
            order=order if self.positions == "contiguous" else None,
        )

    def _weights(self, first: Tensor, stays: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
        """Float32 [N, K, P]: how much of each token's state those `first` [N, K] consist of."""
        itself = first[..., None] == torch.arange(keys.shape[1], device=keys.device)
        alike = torch.take_along_dim(keys, first[..., None], dim=1) @ keys.transpose(1, 2)
        # NaN fails the generation by the attention, which knows the row.
        others = alike.nan_to_num().masked_fill(itself, -torch.inf).flatten(0, 1)
        near = top(others, torch.full_like(first.flatten(), self.neighbours)).view_as(itself)
        one_of_them = stays.gather(1, first)[..., None]
        return (itself & one_of_them) + torch.where(one_of_them, near, ~stays[:, None]) * attention[:, None]

    def arranged(self, rank: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each token stands, LongTensor [N, P], and how many of each image stay, [N].

        `rank` is that by attention, `share` (float64) the part of each image that is to stay by it.
        """
        return rank, (rank.shape[1] * share).long()

    def ratio_of(self, size: int) -> float | None:
        """Return the ratio for images of `size` tokens: with a budget that which leaves so many, with the one
        for the rest.
        """
        if self.budget is None:
            return self.ratio
        wanted = round(self.budget * size)
        number = next((n for n in range(size) if self.expected(n, size) >= wanted), size)
        return min(1, (number + 0.5) / size)  # int(size x ratio) is the number

    def expected(self, ranked: int, size: int) -> float:
        """Return how many tokens an image has in the end if so many stay by attention."""
        return ranked + 1

    def _shares(self, attention: Tensor) -> Tensor:
        """Float64 [N]: `ratio`, or the share of outliers in attention [N, P]."""
        if (ratio := self.ratio_of(attention.shape[1])) is not None:
            return torch.full_like(attention[:, 0], ratio, dtype=torch.float64)
        low, high = (attention.quantile(part, dim=1, keepdim=True) for part in (0.25, 0.75))
        return (attention > high + 1.5 * (high - low)).sum(dim=1).double() / attention.shape[1]


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge, where tokens at equal distances stay as well.

    They stand behind those that stay by attention, in the image's order. Of s = int(1 / share of outliers)
    they are every int(s / 3)-th from token 0 on, but for the image's last token; with `ratio` (the official
    code's for training) every s-th from int(s / 2) on, so that 1/8 of 576 tokens makes 72, at most 72 more,
    and the one for the rest.

    So does the official code (`token_prune_merge_advanced_plus`, which its `forward` calls), where it works.
    It divides by zero where an image has no outliers; here the most attended token then counts as one. It
    takes one image at a time. With a ratio it lets a token stand twice that both choices name, and then
    leaves as many of the first other tokens out of every sum; here a token stands once. Then it also fails
    unless both choices are of one size, as at 1/8.
    """

    name: ClassVar[str] = "prumerge_plus"
    title: ClassVar[str] = "PruMerge+"
    examples = ({"neighbours": 3}, {"ratio": 0.125, "neighbours": 4}, {"ratio": 0.7, "neighbours": 2})

    def arranged(self, rank: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Put tokens at equal distances between those of the highest ranks and the others."""
        size = rank.shape[1]
        share = share.clamp_min(1 / size)
        step = (1 / share).long()[:, None]
        fixed = self.ratio is not None or self.budget is not None
        first, distance = (step // 2, step) if fixed else (0 * step, (step // 3).clamp_min(1))
        index = torch.arange(size, device=rank.device)
        spaced = (index >= first) & ((index - first) % distance == 0) & (index < size - 1)
        ranked = rank < (size * share).long().clamp_min(1)[:, None]
        behind = torch.where(spaced, size + index, 2 * size + rank)
        return torch.where(ranked, rank, behind).argsort(dim=1).argsort(dim=1), (ranked | spaced).sum(dim=1)

    def expected(self, ranked: int, size: int) -> float:
        """As many of those at equal distances are among the others as chance would have it."""
        step = int(size / (ranked + 0.5))
        spaced = len(range(step // 2, size - 1, step)) if step else size
        return ranked + spaced * (1 - ranked / size) + 1
