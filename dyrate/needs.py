"""What a reduction method asks of a generation: caches, graphs and the ledger read one declaration."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Strict

from dyrate.errors import DyrateError
from dyrate.typed import Record

Queries = Literal["last", "instruction", "all"]
"""Whose attention: the newest token's, that of all instruction tokens, or that of the whole prompt."""
DecodeMode = Literal["select", "evict"]
Positions = Literal["original", "contiguous"]
TowerPart = Literal[
    "states",
    "keys",
    "class_attention",
    "joint_class_attention",
    "received_attention",
    "salience",
    "joint_salience",
]
TowerPlace = int | float | Literal["projected", "behind"]
"""A layer of the vision tower: see `tower_layer`."""
ClassName = Literal["sys", "img", "ins", "res", "cmp"]
"""A token class, or `cmp`: the compression tokens, whose text class is that of their place in the prompt."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a method needs, and when it is asked. Layers are counted from 0.

    A method that is asked nowhere and installs nothing is the unpruned model.
    """

    prefill: tuple[int, ...] = ()
    """Layers on entering which `prefill` is asked."""
    decode: tuple[int, ...] = ()
    """Layers on entering which `decode` is asked, at every decode step."""
    decode_mode: DecodeMode = "select"
    """What `decode` answers: the tokens that this step attends to, or those that stay in the KV cache."""
    attention: Mapping[int, Queries] | tuple[int, ...] = ()
    """Layers whose attention is read, and of which queries at prefill; a tuple of layers means `last`. At
    decode it is always the newest token's. Only these rows are computed a second time.
    """
    ahead: tuple[int, ...] = ()
    """Layers on entering which their own attention is there, of the newest token: its query and the keys are
    computed before the layer runs.
    """
    whole_rows: bool = False
    """Whether of the attention read all weights are kept: `Attention.mass_at` needs them."""
    keys: tuple[int, ...] = ()
    """Layers whose keys are kept at prefill."""
    reported: int | None = None
    """The one of them whose class mass `run.steps` shows; by default the deepest."""
    tower: Mapping[TowerPlace, tuple[TowerPart, ...]] = dataclasses.field(default_factory=dict)
    """Layers of the vision tower, as `tower_layer` reads them, and what to keep of each."""
    question: bool = False
    """Whether the text of each row's instruction is read."""
    compression_tokens: tuple[int, ...] = ()
    """Token ids in the prompt that stand for nothing but what they have seen."""
    blocked: frozenset[tuple[ClassName, ClassName]] = frozenset()
    """(query class, key class): whose queries do not see whose keys, in any layer. What `res` does not see of
    `img` leaves the KV cache after the prefill.
    """
    positions: Positions = "original"
    """Whether tokens keep their RoPE position when others leave, or are numbered without gaps."""
    capturable: bool = False
    """Whether `decode` is one function of tensors, the same at every step, so that a CUDA graph can replay
    it: it reads no number on the host, and adds nothing to `state` after the first decode step.
    """

    @property
    def layers(self) -> frozenset[int]:
        """Layers on entering which the method is asked anything."""
        return frozenset({*self.prefill, *self.decode})

    @property
    def observed(self) -> dict[int, Queries]:
        """Queries by layer whose attention is read."""
        found = self.attention
        return dict(found) if isinstance(found, Mapping) else dict.fromkeys(found, "last")


class _Words(Record):
    """Of a method's needs, what does not depend on the model."""

    attention: dict[int, Queries]
    decode_mode: DecodeMode
    positions: Positions
    whole_rows: bool
    blocked: Annotated[frozenset[tuple[ClassName, ClassName]], Strict(False)]
    tower: Mapping[TowerPlace, Annotated[tuple[TowerPart, ...], Strict(False)]]
    compression_tokens: Annotated[tuple[int, ...], Strict(False)]


def checked(needs: Any, depth: int, what: str) -> Needs:
    """Return what a method says it needs of a model of `depth` layers, in order; `what` names it in errors.

    Raises `DyrateError` for layers that the model does not have and for unknown words.
    """
    if not isinstance(needs, Needs):
        raise DyrateError(f"{what}: needs returned a {type(needs).__name__}; a dyrate.Needs is expected")
    prefill = layers_from(needs.prefill, depth, f"{what}: prefill")
    decode = layers_from(needs.decode, depth, f"{what}: decode")
    layers = layers_from(needs.attention, depth, f"{what}: attention")
    named = needs.attention if isinstance(needs.attention, Mapping) else {}
    attention: dict[int, Queries] = {layer: named[layer] if named else "last" for layer in layers}
    reported = max(layers, default=None) if needs.reported is None else needs.reported
    ahead = layers_from(needs.ahead, depth, f"{what}: ahead")
    keys = layers_from(needs.keys, depth, f"{what}: keys")
    found = dataclasses.replace(
        needs,
        prefill=prefill,
        decode=decode,
        attention=attention,
        reported=reported,
        ahead=ahead,
        keys=keys,
    )
    _Words.of({name: getattr(found, name) for name in _Words.model_fields}, lambda key: f"{what}: {key}")
    for layer in ahead:
        if layer not in found.layers:
            raise DyrateError(
                f"{what}: ahead names layer {layer}, on entering which it is asked nothing: "
                f"{tuple(sorted(found.layers)) or 'none'}"
            )
    for layer in keys:
        if not any(asked > layer for asked in prefill):
            raise DyrateError(
                f"{what}: the keys of layer {layer} are there on entering a later layer; prefill is asked at "
                f"{prefill or 'none'}"
            )
    for layer, queries in attention.items():
        if queries != "last" and not any(asked > layer for asked in prefill):
            raise DyrateError(
                f"{what}: the attention of {queries!r} queries at layer {layer} is there at prefill only, on "
                f"entering a later layer; prefill is asked at {prefill or 'none'}"
            )
    if reported is not None and reported not in layers:
        raise DyrateError(
            f"{what}: reported is {reported!r}, which is none of the layers whose attention is read: {layers}"
        )
    return found


def tower_layer(layer: TowerPlace, depth: int, projected: int | None = None) -> int | None:
    """Return which of a vision tower's `depth` layers is meant, counted from 0; None if there is no such one.

    Negative numbers count from the end. A float is a share of the depth: 0.5 is the last layer of the first
    half, the 12th of 24 (halves go to the even number). `projected` is the layer whose output the projector
    reads, LLaVA-1.5's second-last, and `behind` the one that reads it, too; the last has none behind it, and
    stands for that as well.
    """
    if isinstance(layer, str):
        if projected is None:
            return None
        number = projected if layer == "projected" else min(projected + 1, depth - 1)
    elif isinstance(layer, float):
        number = round(layer * depth) - 1
    else:
        number = layer if layer >= 0 else depth + layer
    return number if 0 <= number < depth else None


def layers_from(given: Any, depth: int, what: str) -> tuple[int, ...]:
    """Return numbers of layers in order; a `DyrateError` for what a model of `depth` layers does not have."""
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise DyrateError(f"{what}: expected a tuple of layers, not {given!r:.200}")
    layers = set()
    for layer in given:
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise DyrateError(f"{what}: {layer!r:.80} is no layer: expected a whole number")
        number = operator.index(layer)
        if not 0 <= number < depth:
            raise DyrateError(f"{what}: there is no layer {number}; the model has layers 0..{depth - 1}")
        layers.add(number)
    return tuple(sorted(layers))
