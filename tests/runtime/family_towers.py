"""What the vision tower of any family holds of a row's pictures, found by looking: the queries and keys that
its attention is really given, and the features that tokens of the tower turn out to make.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.tiny_families import encoder_inputs

Call = tuple[Tensor, Tensor]


@contextmanager
def watched(tower: Any) -> Iterator[list[Call]]:
    """Queries and keys [tokens, heads, D] of each sequence that the tower's attention is given, unscaled."""
    calls: list[Call] = []

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        for rows, keys in zip(query, key, strict=True):
            calls.append((rows.transpose(0, 1), keys.transpose(0, 1)))
        found = scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register("watched", attend)
    before, tower.config._attn_implementation = tower.config._attn_implementation, "watched"
    try:
        yield calls
    finally:
        tower.config._attn_implementation = before
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("watched")


class FamilyTower:
    """The tower's tokens in a row, and which of them make which visual token of a prompt."""

    def __init__(self, model: Any, inputs: dict[str, Tensor]) -> None:
        owner, given = model.model, encoder_inputs(model, inputs)
        tower = owner.visual if hasattr(owner, "visual") else owner.vision_tower
        outputs: list[Any] = []
        undo = [
            tower.register_forward_pre_hook(
                lambda module, args, options: (args, {**options, "output_hidden_states": True}),
                with_kwargs=True,
            ),
            tower.register_forward_hook(lambda module, args, output: outputs.append(output)),
        ]
        with watched(tower) as calls:
            features = owner.get_image_features(**given).pooler_output
        for hook in undo:
            hook.remove()
        hidden = outputs[0].hidden_states
        self.states = [states.flatten(0, -2) for states in hidden]
        self.depth, count = len(hidden) - 1, len(self.states[0])
        self.layers: list[list[Call]] = [[] for _ in range(self.depth)]
        for layer in self.layers:
            while sum(len(query) for query, _ in layer) < count:
                layer.append(calls.pop(0))
        assert not calls
        self.projected = getattr(model.config, "vision_feature_layer", -1) % (self.depth + 1) - 1
        self.features = torch.cat(list(features))
        self.pictures: list[list[tuple[int, list[int]]]] = []
        """Of each picture visual tokens, and the tower's tokens that make them."""
        self.columns: list[int] = []
        self.classes: list[int | None] = []
        """Of each picture its class token."""
        self.sizes: list[int] = []
        """Of each picture, all tokens of the tower."""
        family: Any = getattr(self, f"_{model.config.model_type}")
        family(model, given, features, hidden[-1])

    def _llava_next(self, model: Any, given: Any, features: Any, last: Tensor) -> None:
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        tokens, options = last.shape[1], {}
        if model.config.model_type == "llava_onevision":
            options["vision_aspect_ratio"] = model.config.vision_aspect_ratio
        else:
            options["vision_feature_select_strategy"] = "default"
        visual = tile = 0
        for size, of_image in zip(given["image_sizes"], features, strict=True):
            tiles = self._tiles(model, size, given)
            numbers = torch.arange(tiles * side**2).view(tiles, side**2, 1).float()
            packed, _ = model.model.pack_image_features(
                [numbers], size[None], image_newline=-torch.ones(1), **options
            )
            own: list[list[tuple[int, list[int]]]] = [[] for _ in range(tiles)]
            for number in packed[0].flatten().long().tolist():
                if number >= 0:
                    place, patch = divmod(number, side**2)
                    made = (tile + place) * tokens + tokens - side**2 + patch
                    own[place].append((visual, [made]))
                visual += 1
            for place, picture in enumerate(own):
                start = (tile + place) * tokens
                self.pictures.append(picture)
                self.columns.append(
                    len({(source[0] - tokens + side**2 - start) % side for _, source in picture})
                )
                self.classes.append(start if tokens > side**2 else None)
                self.sizes.append(tokens)
            tile += tiles
            assert len(of_image) == len(packed[0])

    _llava_onevision = _llava_next

    def _tiles(self, model: Any, size: Tensor, given: Any) -> int:
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        if "batch_num_images" in given and len(given["image_sizes"]) > 1:
            return 1
        config = model.config
        found: int = image_size_to_num_patches(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        return found

    def _internvl(self, model: Any, given: Any, features: Any, last: Tensor) -> None:
        tokens = last.shape[1]
        side = math.isqrt(tokens - 1)
        for tile in range(len(last)):
            picture = []
            for row in range(side // 2):
                for column in range(side // 2):
                    corners = [(2 * row + down, 2 * column + right) for down in (0, 1) for right in (0, 1)]
                    made = [tile * tokens + 1 + r * side + c for r, c in corners]
                    picture.append((tile * (side // 2) ** 2 + len(picture), made))
            self.pictures.append(picture)
            self.columns.append(side // 2)
            self.classes.append(tile * tokens)
            self.sizes.append(tokens)

    def _qwen2_5_vl(self, model: Any, given: Any, features: Any, last: Tensor) -> None:
        merged = model.model.visual.merger(last)
        visual = 0
        for grid, of_image in zip(given["image_grid_thw"].tolist(), features, strict=True):
            picture = []
            for feature in of_image:
                distances = (merged - feature).abs().amax(dim=1)
                place = int(distances.argmin())
                assert distances[place] < 1e-4
                picture.append((visual, [4 * place + patch for patch in range(4)]))
                visual += 1
            self.pictures.append(picture)
            self.columns.append(grid[2] // 2)
            self.classes.append(None)
            self.sizes.append(grid[1] * grid[2])

    _qwen3_vl = _qwen2_5_vl

    def attention(self, layer: int, query: int | None, picture: int, *, joint: bool) -> list[float]:
        """What each of the tower's tokens gets of one query, or of all of a picture, summed over heads."""
        found, start = [0.0] * len(self.states[0]), 0
        members = {token for _, made in self.pictures[picture] for token in made}
        for queries, keys in self.layers[layer]:
            inside = range(start, start + len(queries))
            if members & {*inside} and (query is None or query in inside):
                rows = queries if query is None else queries[query - start : query - start + 1]
                if joint:
                    rows, keys = rows.flatten(1)[:, None], keys.flatten(1)[:, None]
                for head in range(keys.shape[1]):
                    logits = rows[:, head] @ keys[:, head].T / math.sqrt(keys.shape[2])
                    for place, weight in zip(inside, logits.softmax(dim=1).sum(dim=0).tolist(), strict=True):
                        found[place] += weight
            start += len(queries)
        return found

    def keys(self, layer: int) -> Tensor:
        """[tokens, heads, D]."""
        return torch.cat([keys for _, keys in self.layers[layer]])


class FamilyPicture:
    """One picture, with what rules ask of it; tokens are numbered by their places in it."""

    def __init__(self, tower: FamilyTower, number: int, model: Any) -> None:
        self.tower, self.number = tower, number
        picture = tower.pictures[number]
        self.places, self.made = [place for place, _ in picture], [made for _, made in picture]
        self.everyone, self.columns = list(range(len(picture))), tower.columns[number]
        self.merged = len(self.made[0]) > 1
        owner = model.model
        self.projector = owner.visual.merger if hasattr(owner, "visual") else owner.multi_modal_projector
        self.width = tower.states[0].shape[1]
        self.by_patch = hasattr(owner, "visual")

    def _mean(self, values: list[float]) -> list[float]:
        return [sum(values[token] for token in made) / len(made) for made in self.made]

    def salience(self, *, joint: bool = False) -> list[float]:
        behind = min(self.tower.projected + 1, self.tower.depth - 1)
        layer, query = behind if joint else self.tower.projected, self.tower.classes[self.number]
        share = 1 if query is not None else self.tower.sizes[self.number]
        found = self.tower.attention(layer, query, self.number, joint=joint)
        return [value / share for value in self._mean(found)]

    def received(self, share: float | None) -> list[float]:
        layer = self.tower.projected if share is None else round(share * self.tower.depth) - 1
        return self._mean(self.tower.attention(layer, None, self.number, joint=False))

    def keys(self, *, joint: bool = False) -> Tensor:
        behind = min(self.tower.projected + 1, self.tower.depth - 1)
        keys = self.tower.keys(behind if joint else self.tower.projected)
        keys = keys.flatten(1) if joint else keys.mean(dim=1)
        return torch.stack([keys[made].mean(dim=0) for made in self.made])

    @property
    def states(self) -> Tensor:
        after = self.tower.states[self.tower.projected + 1]
        return torch.stack([after[made].flatten() for made in self.made])

    @property
    def class_state(self) -> Tensor | None:
        token = self.tower.classes[self.number]
        return None if token is None or self.merged else self.tower.states[self.tower.projected + 1][token]

    @property
    def features(self) -> Tensor:
        return self.tower.features[self.places]

    def project(self, state: Tensor) -> Tensor:
        given = state.view(-1, self.width) if self.by_patch else state[None]
        found: Tensor = self.projector(given)[0]
        return found


def pictures_of(model: Any, inputs: dict[str, Tensor]) -> list[FamilyPicture]:
    """All pictures of a row."""
    tower = FamilyTower(model, inputs)
    return [FamilyPicture(tower, number, model) for number in range(len(tower.pictures))]
