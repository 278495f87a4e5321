"""What a reduction method sees when it is asked: one view at prefill, one at decode."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.attention_rows import Attention
from dyrate.errors import DyrateError
from dyrate.finite import witness
from dyrate.needs import TowerPlace
from dyrate.prompt import Prompt
from dyrate.token_set import TokenSet, gather_tokens
from dyrate.tower_layer import TowerLayer


class AttentionByLayer(Mapping[int, Attention]):
    """Attention by layer; a `DyrateError` that says which there is, for a layer that has none."""

    def __init__(
        self,
        found: Mapping[int, Attention],
        where: str,
        looked_at: Callable[[int], None] = lambda layer: None,
    ) -> None:
        self._found, self._where, self._looked_at = found, where, looked_at

    def __getitem__(self, layer: int) -> Attention:
        self._looked_at(layer)
        try:
            return self._found[layer]
        except KeyError:
            known = f", only that of {', '.join(map(str, sorted(self)))}" if self else ""
        raise DyrateError(
            f"{self._where} does not have the attention of layer {layer!r}{known}: needs must name it, and "
            "that of this step comes from layers before the one entered"
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, eq=False)
class View:
    """A batch on entering one layer; B rows, V the largest number of visual tokens of a row."""

    layer: int
    """The layer being entered."""
    step: int
    """0 is the prefill, t >= 1 the t-th decode step."""
    present: Tensor
    """BoolTensor [B, V]: the visual tokens that are left; at decode, those that this layer has cached."""
    visual_tokens: Tensor
    """LongTensor [B]: V of each row, before any reduction."""
    attention: Mapping[int, Attention]
    """By layer, of those that `needs` names and that have run at this step."""
    state: dict[str, Tensor]
    """Whatever the method wants to remember until the next call: tensors [B, ...], which follow their rows in
    beam search. Emptied at each prefill.
    """
    _witnesses: dict[str, Tensor]

    @property
    def visual_counts(self) -> Tensor:
        """LongTensor [B]: number of visual tokens that are present."""
        return self.present.sum(dim=1)

    @property
    def valid(self) -> Tensor:
        """BoolTensor [B, V]: which entries stand for a visual token at all."""
        return torch.arange(self.present.shape[1], device=self.present.device) < self.visual_tokens[:, None]

    def expect_finite(self, name: str, values: Tensor) -> None:
        """Let the generation fail, naming row and step, if any of `values` [B, ...] is NaN or infinite.

        For numbers of the method's own, from which NaN would silently make a choice of tokens.
        """
        self._witnesses[name] = witness(values)


@dataclass(frozen=True, eq=False)
class PrefillView(View):
    """A batch of prompts on entering one layer."""

    _tokens: TokenSet
    _hidden: Tensor
    _prompt: Prompt
    _keys: Mapping[int, tuple[Tensor, TokenSet]]
    _angles: tuple[Tensor, Tensor]

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return len(self._prompt.family.layers)

    @property
    def states(self) -> Tensor:
        """FloatTensor [B, V, hidden]: those of visual tokens on entering this layer; 0 for absent ones."""
        return self._states(self._tokens.visual_slots)

    @property
    def instruction(self) -> Tensor:
        """BoolTensor [B, Q]: which entries of `instruction_states` are a token; padding comes first."""
        return self._tokens.instruction_slots >= 0

    @property
    def instruction_states(self) -> Tensor:
        """FloatTensor [B, Q, hidden]: those of the instruction on entering this layer; 0 at padding."""
        return self._states(self._tokens.instruction_slots)

    def _states(self, slots: Tensor) -> Tensor:
        return _at(slots, self._hidden)

    @property
    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine by which RoPE turns queries and keys of the visual tokens, each FloatTensor [B, V,
        D]; 0 for absent ones.
        """
        return self._angles_of(self._tokens.visual_slots)

    @property
    def instruction_angles(self) -> tuple[Tensor, Tensor]:
        """Those of the instruction, each FloatTensor [B, Q, D]; 0 at padding."""
        return self._angles_of(self._tokens.instruction_slots)

    def _angles_of(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._angles
        return _at(slots, cos), _at(slots, sin)

    def keys(self, layer: int) -> Tensor:
        """FloatTensor [B, V, kv heads, D]: keys of visual tokens in a layer, turned by their positions."""
        return self._kept_keys(layer, lambda tokens: tokens.visual_slots)

    def instruction_keys(self, layer: int) -> Tensor:
        """FloatTensor [B, Q, kv heads, D]: those of the instruction."""
        return self._kept_keys(layer, lambda tokens: tokens.instruction_slots)

    def _kept_keys(self, layer: int, slots_of: Callable[[TokenSet], Tensor]) -> Tensor:
        if layer not in self._keys:
            raise DyrateError(
                f"view at prefill, entering layer {self.layer}, does not have the keys of layer {layer!r}: "
                "needs must name it in keys, and the layer must have run"
            )
        keys, tokens = self._keys[layer]
        picked = _at(slots_of(tokens), keys.transpose(1, 2).flatten(2))
        return picked.view(*picked.shape[:2], *keys.shape[1::2])

    def final_norm(self, states: Tensor) -> Tensor:
        """Return states [..., hidden] as the language model's last norm leaves them."""
        return self._prompt.family.final_norm(states).to(states.device)

    @property
    def grid(self) -> Tensor:
        """LongTensor [B, V, 3]: each visual token's picture (0, 1, ... in its row), and its row and column
        there. An image is one picture, or several, if the model sees it whole and in tiles. -1 for no visual
        token, row and column also for a class token, the column for a newline.
        """
        return self._prompt.grid

    @property
    def pictures(self) -> Tensor:
        """LongTensor [B, V]: which picture of its row the tower saw when it made a visual token, an image or
        a tile, counted from 0; -1 for a newline and for no visual token.
        """
        return self._prompt.seen.pictures

    def tower(self, layer: TowerPlace) -> TowerLayer:
        """Return what `needs` asked to keep of a layer of the vision tower, which is named as there."""
        return self._prompt.tower(layer)

    def project(self, features: Tensor) -> Tensor:
        """Return features of the tower [B, n, width] as the connector projects them, [B, n, hidden]."""
        return self._prompt.project(features)

    @property
    def questions(self) -> list[str]:
        """The text of each row's instruction, if `needs` asks for it."""
        return self._prompt.questions

    @property
    def question_features(self) -> Tensor:
        """FloatTensor [B, D]: the questions as the checkpoint's text encoder has them; of tokens,
        `tower(layer).embeds` are their like.
        """
        return self._prompt.question_features

    def row_seeds(self, seed: int) -> list[int]:
        """Return one seed per row, made of `seed` and the row's own tokens and pixels, not of its batch."""
        return self._prompt.row_seeds(seed)

    def count_macs(self, macs: int) -> None:
        """Count multiply-accumulates of the method's own, of all rows together: those that `own_macs` cannot
        know, since they depend on the model's sizes or on the input.
        """
        self._prompt.count_macs(macs)


def _at(slots: Tensor, states: Tensor) -> Tensor:
    """Pick `slots` [B, n] of states [B, slots, width]; 0 where a slot is -1."""
    return gather_tokens(states, slots.clamp_min(0)).masked_fill((slots < 0)[:, :, None], 0)


@dataclass(frozen=True, eq=False)
class DecodeView(View):
    """A batch at one decode step on entering one layer."""

    newest_state: Tensor
    """FloatTensor [B, hidden]: the newest token's state on entering this layer."""
    previous: Mapping[int, Attention]
    """Attention at the step before, of all layers that `needs` names."""
