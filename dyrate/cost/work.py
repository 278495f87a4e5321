"""What passed through each layer: tokens, and pairs of a query and a key; exact sums over rows and steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dyrate.record import Run
    from dyrate.reduction import ReductionMethod


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
    scored: int = 0
    """Keys whose attention a method's statistics layers computed once more."""
    scored_prompt: int = 0
    """Those of them that belong to the prompt: their attention is also summed by class."""
    own_macs: int = 0
    """Multiply-accumulates of a method's own matrices."""

    @classmethod
    def none(cls, layers: int) -> "Work":
        """Return no work at all."""
        return cls((0,) * layers, (0,) * layers)

    @classmethod
    def encoder(cls, layers: int, images: int, patches: int) -> "Work":
        """Return that of encoding images, for a decoder of so many layers."""
        tokens = patches + 1 if images else 0
        return cls(
            (0,) * layers,
            (0,) * layers,
            patches=images * patches,
            encoder_tokens=images * tokens,
            encoder_pairs=images * tokens**2,
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
        parts = (self, *others)
        columns = {
            entry.name: [getattr(part, entry.name) for part in parts]
            for entry in fields(self)
            if entry.name not in ("tokens", "pairs")
        }
        return Work(
            tuple(sum(column) for column in zip(*(part.tokens for part in parts), strict=True)),
            tuple(sum(column) for column in zip(*(part.pairs for part in parts), strict=True)),
            **{name: sum(column) for name, column in columns.items()},
        )

    def __add__(self, other: "Work") -> "Work":
        return self.plus([other])


@dataclass(frozen=True)
class Phases:
    """A generation: its prefill, its decode steps as they ran, and as they would run without a cache."""

    prefill: Work
    decode: Work
    recompute: Work
    steps: int = field(default=0)
    """Decode steps, summed over rows: tokens that were fed back."""

    def __add__(self, other: "Phases") -> "Phases":
        return Phases(
            self.prefill + other.prefill,
            self.decode + other.decode,
            self.recompute + other.recompute,
            self.steps + other.steps,
        )


def schedule(prompt: Sequence[int], steps: int, patches: int = 0) -> Phases:
    """Return the work of a row whose prompt has `prompt[l]` tokens in layer l, where decode drops nothing.

    `steps` counts decode steps: one less than the new tokens, since the first comes of the prefill.
    """
    layers = len(prompt)
    encoder = Work.encoder(layers, images=int(patches > 0), patches=patches)
    return _phases(encoder, prompt, [[n + step for n in prompt] for step in range(1, steps + 1)])


def work_of(run: "Run", method: "ReductionMethod", steps: Sequence[int] | None = None) -> Phases:
    """Return the work of a run's last generation, summed over its rows.

    `steps` are the decode steps of each row up to its end; all of them without it.
    """
    text, visual, kept = run.text_tokens.tolist(), run.visual_tokens.tolist(), run.kept
    attended = run.decode_tokens_per_row.tolist()  # [steps][layers][batch]
    observed = run.observed
    layers = len(kept)
    whole = Phases(Work.encoder(layers, *run.encoded), Work.none(layers), Work.none(layers))
    for row, words in enumerate(text):
        last = len(attended) if steps is None else steps[row]
        lengths = [[words + len(kept[layer][row]) for layer in range(layers)]]
        lengths += [
            [words + by_layer[layer][row] + step for layer in range(layers)]
            for step, by_layer in enumerate(attended[:last], start=1)
        ]
        overheads = [
            Work(
                (0,) * layers,
                (0,) * layers,
                scored=sum(found[layer] for layer in observed[step]),
                scored_prompt=sum(found[layer] - step for layer in observed[step]),
                own_macs=method.own_macs(visual[row], step) if visual[row] else 0,
            )
            for step, found in enumerate(lengths)
        ]
        whole += _phases(overheads[0], lengths[0], lengths[1:], overheads[1:])
    return whole


def _phases(
    before: Work, prompt: Sequence[int], steps: Sequence[Sequence[int]], overheads: Sequence[Work] = ()
) -> Phases:
    """Return a row's work; `before` and `overheads` come on top of its prefill and its decode steps."""
    nothing = Work.none(len(prompt))
    return Phases(
        before + Work.prefill(prompt),
        nothing.plus([*map(Work.step, steps), *overheads]),
        nothing.plus([*map(Work.prefill, steps), *overheads]),
        len(steps),
    )
