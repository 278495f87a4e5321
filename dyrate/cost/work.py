"""What passed through each layer: tokens, and pairs of a query and a key; exact sums over rows and steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import mul
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from torch import Tensor

    from dyrate.reduction import ReductionMethod
    from dyrate.run import Run


@dataclass(frozen=True)
class Work:
    """The work of one phase of generation, whatever the model's sizes."""

    tokens: tuple[int, ...]
    """Per decoder layer: tokens that passed through it."""
    pairs: tuple[int, ...]
    """Per decoder layer: (query, key) pairs of its attention, causal or not, as formulas count them."""
    logits: int = 0
    """Positions that the vocabulary's logits were computed for."""
    patches: int = 0
    """Patches that went through the vision encoder and the projector."""
    encoder_tokens: int = 0
    """Tokens of the vision encoder, the class tokens among them."""
    encoder_pairs: int = 0
    """(query, key) pairs of the vision encoder's attention."""
    encoding: int = 0
    """Multiply-accumulates of encoding images that are not all of one size, the projector's among them."""
    encoder_saved: int = 0
    """Multiply-accumulates that a vision encoder whose layers were changed was spared of these."""
    unprojected: int = 0
    """Patches of them that did not go through the projector."""
    scored: int = 0
    """Keys whose attention was computed once more, for a method to read."""
    scored_prompt: int = 0
    """Those of them that belong to the prompt and to the newest query: they are also summed by class."""
    queries: int = 0
    keys: int = 0
    """Tokens whose query, and whose key, was computed once more, for `Needs.ahead`."""
    own_macs: int = 0
    """Multiply-accumulates of a method's own matrices, and of what it read of the vision encoder."""

    @classmethod
    def none(cls, layers: int) -> "Work":
        """Return no work at all."""
        return cls((0,) * layers, (0,) * layers)

    @classmethod
    def encoder(cls, layers: int, images: int, patches: int, saved: int = 0, unprojected: int = 0) -> "Work":
        """Return that of encoding images, for a decoder of so many layers."""
        tokens = patches + 1 if images else 0
        return cls(
            (0,) * layers,
            (0,) * layers,
            patches=images * patches,
            encoder_tokens=images * tokens,
            encoder_pairs=images * tokens**2,
            encoder_saved=saved,
            unprojected=unprojected,
        )

    @classmethod
    def prefill(cls, lengths: Sequence[int]) -> "Work":
        """Return that of a prompt with `lengths[l]` tokens in decoder layer l."""
        return cls(tuple(lengths), tuple(n * n for n in lengths), logits=1)

    @classmethod
    def step(cls, lengths: Sequence[int]) -> "Work":
        """Return that of a decode step that attends to `lengths[l]` tokens in layer l, itself among them."""
        return cls((1,) * len(lengths), tuple(lengths), logits=1)

    def plus(self, others: Iterable["Work"]) -> "Work":
        """Return the sum with `others`, of as many layers."""
        parts, found = (self, *others), dict[str, Any]()
        for entry in fields(self):
            column = [getattr(part, entry.name) for part in parts]
            per_layer = isinstance(column[0], tuple)
            found[entry.name] = tuple(map(sum, zip(*column, strict=True))) if per_layer else sum(column)
        return Work(**found)

    def __add__(self, other: "Work") -> "Work":
        return self.plus([other])


@dataclass(frozen=True)
class Phases:
    """A generation: its prefill, its decode steps as they ran, and as they would run without a cache."""

    prefill: Work
    decode: Work
    recompute: Work
    steps: int = 0
    """Decode steps, summed over rows: tokens that were fed back."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Phases":
        """Return what `to_json` gave, perhaps read from a file."""
        return _PHASES.validate_python(values)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able dicts of numbers and lists."""
        found: dict[str, Any] = _PHASES.dump_python(self, mode="json")
        return found

    def __add__(self, other: "Phases") -> "Phases":
        return Phases(
            self.prefill + other.prefill,
            self.decode + other.decode,
            self.recompute + other.recompute,
            self.steps + other.steps,
        )


_PHASES = TypeAdapter(Phases)


def schedule(prompt: Sequence[int], steps: int, patches: int = 0) -> Phases:
    """Return the work of a row whose prompt has `prompt[l]` tokens in layer l, where decode drops nothing.

    `steps` counts decode steps: one less than the new tokens, since the first comes of the prefill.
    """
    layers = len(prompt)
    encoder = Work.encoder(layers, images=int(patches > 0), patches=patches)
    lengths = [[n + step for n in prompt] for step in range(1, steps + 1)]
    nothing = Work.none(layers)
    return Phases(
        encoder + Work.prefill(prompt),
        nothing.plus(map(Work.step, lengths)),
        nothing.plus(map(Work.prefill, lengths)),
        steps,
    )


def work_of(run: "Run", method: "ReductionMethod", steps: "Tensor | None" = None) -> Phases:
    """Return the work of a run's last generation, summed over its rows.

    `steps` (LongTensor [batch]) are the decode steps of each row up to its end; all of them without it.
    """
    import torch

    text, visual, attended = run.text_tokens, run.visual_tokens, run.decode_tokens_per_row
    index = torch.arange(1, len(attended) + 1, device=text.device)
    alive = torch.ones_like(attended[:, 0]) if steps is None else (index[:, None] <= steps).long()
    prompt = (text + run.kept_counts.to(text.device))[None]  # [1, layers, batch]
    lengths = text + attended + index[:, None, None]  # [steps, layers, batch]
    every = alive[:, None]
    took = int(alive.sum())
    nothing = (0,) * prompt.shape[1]
    generated = torch.cat([torch.zeros_like(text)[None], alive.cumsum(dim=0) * alive])
    counted = torch.cat([torch.ones_like(text)[None], alive])

    def scored(first: int, last: int) -> Work:
        """The attention of these steps that was computed once more."""
        keys = torch.cat([prompt, lengths])
        found = [
            (keys[step, layer] * counted[step], generated[step])
            for step in range(first, last)
            for layer in run.observed[step]
        ]
        newest = int(sum(seen.sum() for seen, _ in found))
        answered = int(sum(answer.sum() for _, answer in found))
        # That of other queries of the prompt is not summed by class.
        others = () if first else run.prompt_queries.items()
        more = int(sum((prompt[0, layer] * queries).sum() for layer, queries in others))
        return Work(nothing, nothing, scored=newest + more, scored_prompt=newest - answered)

    def own(decode: bool) -> Work:
        """What the method's own matrices computed, in rows with an image."""
        times = (alive.sum(dim=0) if decode else torch.ones_like(visual)).tolist()
        per_row = [method.own_macs(tokens, decode=decode) if tokens else 0 for tokens in visual.tolist()]
        read = 0 if decode else run.encoder_macs
        return Work(nothing, nothing, own_macs=sum(map(mul, times, per_row)) + read)

    def ahead(decode: bool) -> Work:
        """What was computed of layers before they ran, over all tokens that they hold at prefill's end."""
        needs = method.needs(len(nothing))
        layers = set(needs.ahead) & set(needs.decode if decode else needs.prefill)
        whole = (text + visual)[None]
        entering = torch.cat([whole, prompt[0]])  # a layer is entered with what the one before it had
        if not decode:
            keys = int(sum(entering[layer].sum() for layer in layers))
            once = len(layers) * len(text)
            return Work(nothing, nothing, scored=keys, scored_prompt=keys, queries=once, keys=keys)
        held = int(sum(((prompt[0, layer] + index[:, None]) * alive).sum() for layer in layers))
        once = took * len(layers)
        answered = len(layers) * int((index[:, None] * alive).sum())
        return Work(nothing, nothing, scored=held, scored_prompt=held - answered, queries=once, keys=once)

    overhead = scored(1, len(attended) + 1) + ahead(decode=True) + own(decode=True)
    return Phases(
        Work.encoder(len(nothing), *run.encoded, *run.encoder_saved)
        + Work(_sums(prompt), _sums(prompt**2), logits=len(text), encoding=run.encoding_macs)
        + scored(0, 1)
        + ahead(decode=False)
        + own(decode=False),
        Work((took,) * len(nothing), _sums(lengths * every), logits=took) + overhead,
        Work(_sums(lengths * every), _sums(lengths**2 * every), logits=took) + overhead,
        took,
    )


def _sums(counts: "Tensor") -> tuple[int, ...]:
    """Sum [steps, layers, batch] per layer."""
    return tuple(counts.sum(dim=(0, 2)).tolist())
