"""ToMe: in every layer of the vision tower, tokens with alike keys become one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.families import Tower
from dyrate.installation import TowerTokens
from dyrate.methods.budget import below, budget_of
from dyrate.reduction import Installation, Needs, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class ToMe(ReductionMethod):
    """Merge `merged` tokens (the paper's r) of each image in every layer of the tower, between its halves.

    1. Tokens in turn belong to A and B; the class token leads A, and stays as it is.
    2. Each of A finds the one of B whose keys, averaged over heads, have the largest cosine with its own.
    3. The r pairs with the largest cosines become one token each: the mean, weighted by how many tokens each
       stands for, in the place of the one of B. No more than half of the tokens can go in one layer.
    4. In later layers attention to a token counts as often as it stands for others (`proportional`).

    So does the official code (facebookresearch/ToMe, `merge.py` and `patch/timm.py`), down to the order in
    which tokens go on to the next layer: what is left of A, then B. It is made for classifiers. That the
    language model gets the features in the image's order, each at the place of the token that it was at
    first, and numbers them without gaps, is ours. The code can also lower r from layer to layer, and leaves
    proportional attention out where a model was trained with merging. The tower's last layer merges as well,
    though LLaVA-1.5 reads the second-last: of 577 tokens its 23 layers leave 208 features with r = 16, 185
    with 17, 116 with 20 and 70 with 22.
    """

    name: ClassVar[str] = "tome"
    title: ClassVar[str] = "ToMe"
    paper: ClassVar[str] = "arXiv:2210.09461"
    examples = ({"merged": 3}, {"merged": 8}, {"merged": 5, "proportional": False})
    keeps_everything = ({"merged": 0},)

    merged: int = hyperparameter("tokens r that each layer of the tower merges", default=16, minimum=0)
    budget: float | None = budget_of("merged")
    proportional: bool = hyperparameter(
        "whether attention to a token counts as often as it stands for others", default=True
    )

    def needs(self, depth: int) -> Needs:
        """Positions without gaps: the prompt is simply shorter."""
        return Needs(positions="contiguous")

    def install(self, parts: Installation) -> None:
        """Merge in the tower."""
        classes, merged = parts.tower.class_tokens, self.merged_in(parts.tower)

        def change(tokens: TowerTokens) -> TowerTokens:
            images, count, width = tokens.states.shape
            pairs = min(merged, (count - classes) // 2)
            if pairs < 1:
                return tokens
            first, second = (count + 1) // 2, count // 2
            compared, joined = first * second * tokens.keys.shape[3], pairs * second * (width + 1)
            parts.count_tower_macs(images * (compared + joined))
            return merge_pairs(tokens, pairs, classes)

        parts.change_tower(change, proportional=self.proportional)

    def merged_in(self, tower: Tower) -> int:
        """Return r, with a budget that which leaves as many features, rounded."""
        if self.budget is None:
            return self.merged
        module: Any = tower.module
        patches: int = (module.config.image_size // tower.patch_size) ** 2
        last = tower.projected_layer
        layers = len(tower.layers) if last is None else last + 1
        merged = round(patches * (1 - self.budget) / layers)
        left = patches
        for _ in range(layers):
            left -= min(merged, left // 2)
        if left > self.budget * patches + layers:
            raise below(self, left / patches)
        return merged


def merge_pairs(tokens: TowerTokens, pairs: int, classes: int) -> TowerTokens:
    """Merge so many pairs of every image's tokens, the first `classes` (0 or 1) of which stay as they are."""
    keys = normalize(tokens.keys.float().mean(dim=1), dim=-1)
    cosines = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    cosines[:, :classes] = -torch.inf
    best, into = cosines.max(dim=-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    gone, stay = order[:, :pairs], order[:, pairs:]
    if classes:
        stay = stay.sort(dim=1).values
    homes = into.gather(1, gone)

    # Sums of states and of sizes at once, by a product, whose order of summands is always the same.
    weighed = torch.cat([tokens.states.float() * tokens.sizes[..., None], tokens.sizes[..., None]], dim=2)
    first, second = weighed[:, ::2], weighed[:, 1::2]
    places = torch.arange(second.shape[1], device=homes.device)
    joined = (places[:, None] == homes[:, None]).to(weighed.dtype)
    second = second + joined @ _at(gone, first)
    left = torch.cat([_at(stay, first), second], dim=1)
    sizes = left[..., -1]
    origins = torch.cat([tokens.origins[:, ::2].gather(1, stay), tokens.origins[:, 1::2]], dim=1)
    states = (left[..., :-1] / sizes[..., None]).to(tokens.states.dtype)
    return TowerTokens(states, tokens.keys, sizes, origins)


def _at(index: Tensor, values: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
