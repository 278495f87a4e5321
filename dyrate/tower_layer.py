"""What one layer of the vision tower holds of each visual token, computed when a method looks at it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.families import Tower
from dyrate.families.tower import Seen
from dyrate.needs import Needs, TowerPart

_AT_ONCE = 1024
"""Queries whose attention is computed together."""


@dataclass(frozen=True, eq=False)
class SeenTokens:
    """Which tokens of the tower make which visual tokens of a batch."""

    tower: Tower
    needs: Needs
    inputs: Mapping[str, Any]
    """The arguments of `get_image_features`."""
    sources: Tensor
    """LongTensor [B, V, 1 + patches]: see `Family.sources`; -1 for no token."""
    count_macs: Callable[[int], None]
    beside_questions: Callable[[Tensor], Tensor]
    """States of the tower -> those in the space of `question_features`."""

    @cached_property
    def pictures(self) -> Tensor:
        """LongTensor [B, V]: see `PrefillView.pictures`."""
        pictures = self.sources[..., 0]
        return torch.where(pictures < 0, -1, pictures - pictures[:, :1])

    def by_token(self, values: Tensor) -> Tensor:
        """Return what the tower's tokens hold [tokens, ...] by visual token and patch, [B, V, patches, ...];
        0 for none.
        """
        sources = self.sources[..., 1:]
        found = values.to(sources.device)[sources.clamp_min(0)]
        return found.masked_fill((sources < 0).view(*sources.shape, *[1] * (values.dim() - 1)), 0)

    def by_picture(self, values: Tensor) -> Tensor:
        """Return what pictures hold [pictures, ...] by row [B, most pictures of a row, ...], 0 for none."""
        first, last = self.sources[:, 0, 0], self.sources[..., 0].amax(dim=1)
        index = first[:, None] + torch.arange(int((last - first).max()) + 1, device=first.device)
        none = (first < 0)[:, None] | (index > last[:, None])
        found = values.to(index.device)[index.masked_fill(none, 0)]
        return found.masked_fill(none.view(*none.shape, *[1] * (values.dim() - 1)), 0)


@dataclass(frozen=True, eq=False)
class TowerLayer:
    """What one layer of the vision tower holds of each visual token; B rows, V tokens, I images of a row.

    It is computed when a method looks at it.
    """

    _tokens: SeenTokens
    layer: int
    before: Tensor
    """FloatTensor: the layer's input, as the tower has it."""
    after: Tensor
    """Its output."""

    @property
    def patches(self) -> int:
        """Patches of a visual token: their attention and keys are averaged, their states side by side."""
        return self._tokens.tower.patches

    @property
    def class_token(self) -> bool:
        """Whether pictures have one, whose state the projector takes."""
        return self._tokens.tower.class_tokens > 0 and self.patches == 1

    @property
    def states(self) -> Tensor:
        """FloatTensor [B, V, patches x width]: the layer's output, `hidden_states[layer + 1]` of
        transformers.
        """
        self._check("states")
        return self._tokens.by_token(self.after.flatten(0, -2)).flatten(2)

    @property
    def embeds(self) -> Tensor:
        """FloatTensor [B, V, D]: that output in the space of `question_features`, in float32: after the
        tower's last norm and CLIP's visual projection.
        """
        self._check("states")
        beside = self._tokens.beside_questions(self.after)
        return self._tokens.by_token(beside.flatten(0, -2)).mean(dim=2)

    @property
    def class_states(self) -> Tensor:
        """FloatTensor [B, I, width]: that of each picture's class token."""
        self._check("states", class_token=True)
        return self._tokens.by_picture(self.after[:, 0])

    @property
    def keys(self) -> Tensor:
        """FloatTensor [B, V, heads, D]: its keys, before any scaling."""
        self._check("keys")
        return self._by_token([seen.key.transpose(1, 2) for seen in self._seen])

    @property
    def class_attention(self) -> Tensor:
        """FloatTensor [B, heads, V]: the class token's attention on each token, in float32; over all of a
        picture's tokens, itself included, it sums to 1.
        """
        self._check("class_attention", class_token=True)
        return self._attention(joint=False, received=False).transpose(1, 2)

    @property
    def joint_class_attention(self) -> Tensor:
        """FloatTensor [B, V]: the class token's attention on each token as it would be if all heads were one,
        of the layer's whole width; in float32, and as a share of all of a picture's tokens, itself included.
        """
        self._check("joint_class_attention", class_token=True)
        return self._attention(joint=True, received=False).squeeze(-1)

    @property
    def received_attention(self) -> Tensor:
        """FloatTensor [B, heads, V]: attention on each token, in float32, mean over its picture's queries."""
        self._check("received_attention")
        return self._attention(joint=False, received=True).transpose(1, 2)

    @property
    def salience(self) -> Tensor:
        """FloatTensor [B, heads, V]: the class token's attention; where there is none, what official ports
        take for it: the attention received.
        """
        self._check("salience")
        received = not self._tokens.tower.class_tokens
        return self._attention(joint=False, received=received).transpose(1, 2)

    @property
    def joint_salience(self) -> Tensor:
        """FloatTensor [B, V]: the same as if all heads were one, of the layer's whole width."""
        self._check("joint_salience")
        received = not self._tokens.tower.class_tokens
        return self._attention(joint=True, received=received).squeeze(-1)

    def _attention(self, *, joint: bool, received: bool) -> Tensor:
        """FloatTensor [B, V, heads]: that of each picture's first query, or the mean over all of them."""
        found = []
        for query, key, of in self._seen:
            heads, count = key.shape[1:3]
            asking, keys = (query if received else query[:, :, :1]).float(), key.float().transpose(-1, -2)
            sums = []
            for rows in torch.split(asking, _AT_ONCE, dim=2):
                logits = rows @ keys
                if joint:  # scaled for one of the heads
                    logits = logits.sum(dim=1, keepdim=True) / heads**0.5
                sums.append(logits.softmax(dim=-1).sum(dim=2))
            total = torch.stack(sums).sum(dim=0)
            found.append((total / (of if received else 1)).transpose(1, 2))
            self._tokens.count_macs(key.numel() * (count if received else 1))
        return self._by_token(found)

    def _by_token(self, found: Sequence[Tensor]) -> Tensor:
        """Return the mean over each token's patches, [B, V, ...], of what groups have [groups, n, ...]."""
        return self._tokens.by_token(torch.cat([part.flatten(0, 1) for part in found])).mean(dim=2)

    @cached_property
    def _seen(self) -> Sequence[Seen]:
        self._tokens.count_macs(2 * self.before.numel() * self.before.shape[-1])
        return self._tokens.tower.seen(self.layer, self.before, self._tokens.inputs)

    def _check(self, part: TowerPart, *, class_token: bool = False) -> None:
        tower, needs = self._tokens.tower, self._tokens.needs
        asked = [
            name for layer, parts in needs.tower.items() if tower.layer(layer) == self.layer for name in parts
        ]
        if part not in asked:
            raise DyrateError(
                f"needs asks for {', '.join(asked) or 'nothing'} of layer {self.layer} of the vision "
                f"tower, not for {part}"
            )
        if class_token and not tower.class_tokens:
            raise DyrateError(f"a vision tower of type {tower.kind!r} has no class token")
