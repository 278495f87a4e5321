"""What a layer of the vision tower holds of each visual token, computed when a method looks at it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.needs import TowerPart


@dataclass(frozen=True, eq=False)
class TowerLayer:
    """What one layer of the vision tower holds of each visual token; B rows, V tokens, I images of a row."""

    family: Family
    layer: int
    parts: Sequence[TowerPart]
    before: Tensor
    """FloatTensor [images, tokens, width]: the layer's input."""
    after: Tensor
    """Its output."""
    by_token: Callable[[Tensor], Tensor]
    """[images, patches, ...] -> [B, V, ...]."""
    by_image: Callable[[Tensor], Tensor]
    """[images, ...] -> [B, I, ...]."""
    count_macs: Callable[[int], None]

    @property
    def states(self) -> Tensor:
        """FloatTensor [B, V, width]: the layer's output, `hidden_states[layer + 1]` of transformers."""
        self._check("states")
        return self.by_token(self.after)

    @property
    def class_states(self) -> Tensor:
        """FloatTensor [B, I, width]: that of each image's class token."""
        self._check("states", class_token=True)
        return self.by_image(self.after[:, 0])

    @property
    def keys(self) -> Tensor:
        """FloatTensor [B, V, heads, D]: its keys, before any scaling."""
        self._check("keys")
        return self.by_token(self._rows()[1].transpose(1, 2))

    @property
    def class_attention(self) -> Tensor:
        """FloatTensor [B, heads, V]: the class token's attention on each token, in float32; over all of an
        image's tokens, itself included, it sums to 1.
        """
        self._check("class_attention", class_token=True)
        query, key = self._rows()
        weights = (query[:, :, :1].float() @ key.float().transpose(-1, -2)).softmax(dim=-1)[:, :, 0]
        self.count_macs(key.numel())
        return self.by_token(weights.transpose(1, 2)).transpose(1, 2)

    @property
    def received_attention(self) -> Tensor:
        """FloatTensor [B, heads, V]: attention on each token, mean over all of its image's queries, in
        float32.
        """
        self._check("received_attention")
        query, key = self._rows()
        weights = (query.float() @ key.float().transpose(-1, -2)).softmax(dim=-1).mean(dim=2)
        self.count_macs(key.numel() * key.shape[2])
        return self.by_token(weights.transpose(1, 2)).transpose(1, 2)

    def _rows(self) -> tuple[Tensor, Tensor]:
        images, tokens, width = self.before.shape
        self.count_macs(2 * images * tokens * width * width)
        return self.family.tower_rows(self.layer, self.before)

    def _check(self, part: TowerPart, *, class_token: bool = False) -> None:
        if part not in self.parts:
            raise DyrateError(
                f"needs asks for {', '.join(self.parts) or 'nothing'} of layer {self.layer} of the vision "
                f"tower, not for {part}"
            )
        if class_token and not self.family.class_tokens:
            raise DyrateError(f"a vision tower of type {self.family.tower_type!r} has no class token")
