"""What a run leaves behind: kept tokens, cache lengths, and one line per row and step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyrate.cache import ReducedCache
from dyrate.errors import DyrateError
from dyrate.finite import Witnesses, check, witness

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class _Generation:
    """The record of one prefill and the decode steps after it; tensors stay on their device."""

    cache: ReducedCache | None
    visual_tokens: Tensor
    text_tokens: Tensor
    kept: list[Tensor] = field(default_factory=list)
    """Per layer, BoolTensor [batch, V]."""
    merged: dict[int, Tensor] = field(default_factory=dict)
    """By layer, LongTensor [batch, V]."""
    prompt_queries: dict[int, Tensor] = field(default_factory=dict)
    """By layer, LongTensor [batch]."""
    class_mass: list[dict[int, Tensor]] = field(default_factory=list)
    """Per step, by layer, FloatTensor [batch, heads, 4]."""
    attended: list[list[Tensor]] = field(default_factory=list)
    """Per step and layer, LongTensor [batch]."""
    seen: list[list[Tensor]] = field(default_factory=list)
    """Per step and layer, BoolTensor [batch, V]; empty where an engine counts and does not say which."""
    witnesses: list[Witnesses] = field(default_factory=list)
    """Per step."""
    checked: int = 0
    """Steps whose witnesses have been looked at."""
    moves: dict[int, Tensor] = field(default_factory=dict)
    """By step: after it, row i continued row moves[step][i]."""
    kv: tuple[Tensor, int] | None = None
    """Lengths and bytes of the cache, once it has been let go."""

    def measure_cache(self) -> tuple[Tensor, int]:
        if self.cache is not None:
            return self.cache.lengths(), self.cache.nbytes()
        assert self.kv is not None
        return self.kv


class Run:
    """The record of the last generation inside a `with method(model) as run:` block; each prefill starts a
    new one.

    Rows are those of the model's batch: with beams or several returned sequences, batch x copies. Under beam
    search a row is a running beam as it stood after the last step, with the history of the beams that it came
    from. A row that ended before others goes on being fed padding by `generate()`, and its steps go on being
    recorded. A forward that failed leaves no step behind: after a failed prefill there is none.
    """

    def __init__(self, reported_layer: int | None = None) -> None:
        self.encoded: tuple[int, int] = 0, 0
        """Images encoded for the last prompt, and patches that the encoder saw of each; none where features
        were made outside the `with` block, and where images are not all of one size.
        """
        self.encoding_macs = 0
        """Where they are not: multiply-accumulates of encoding them."""
        self.encoder_saved: tuple[int, int] = 0, 0
        """Multiply-accumulates of these that a changed vision tower was spared, and patches that its
        projector was.
        """
        self.encoder_macs = 0
        """Multiply-accumulates of what a method read of the encoder, or had it compute once more, and of what
        it counted itself at prefill.
        """
        self._reported_layer = reported_layer
        self._generation: _Generation | None = None

    @property
    def kept(self) -> dict[int, list[Tensor]]:
        """{layer: [LongTensor per row]}: visual indices (0..V-1, ascending) kept entering it at prefill."""
        rows = self._rows(0)
        return {
            layer: [row.nonzero().flatten() for row in kept[rows]]
            for layer, kept in enumerate(self._last().kept)
        }

    @property
    def kept_counts(self) -> Tensor:
        """LongTensor [layers, batch]: how many visual tokens are kept entering a layer at prefill; the device
        is not waited for, as for each row of `kept`.
        """
        rows, kept = self._rows(0), self._last().kept
        counts = {id(present): present.sum(dim=1) for present in kept}  # layers share what they hold
        return torch.stack([counts[id(present)][rows] for present in kept])

    @property
    def merged(self) -> dict[int, list[Tensor]]:
        """{layer: [LongTensor [V] per row]}: for each visual token the one that it was merged into on
        entering the layer, -1 for none; of the layers where the method says so.
        """
        rows = self._rows(0)
        return {layer: list(into[rows]) for layer, into in self._last().merged.items()}

    @property
    def kv_lengths(self) -> Tensor:
        """LongTensor [layers, batch]: tokens held in the KV cache after the last step, without padding."""
        return self._last().measure_cache()[0]

    @property
    def kv_bytes(self) -> int:
        """Bytes of memory behind the KV cache after the last step, padding included."""
        return self._last().measure_cache()[1]

    @property
    def visual_tokens(self) -> Tensor:
        """LongTensor [batch]: V of each row, before any reduction."""
        return self._last().visual_tokens[self._rows(0)]

    @property
    def text_tokens(self) -> Tensor:
        """LongTensor [batch]: text tokens of each row's prompt, without padding."""
        return self._last().text_tokens[self._rows(0)]

    @property
    def decode_tokens(self) -> Tensor:
        """FloatTensor [layers]: visual tokens seen per decode step, mean over rows and steps; NaN if none."""
        return self.decode_tokens_per_row.double().mean(dim=(0, 2)).float()

    @property
    def decode_tokens_per_row(self) -> Tensor:
        """LongTensor [steps, layers, batch]: visual tokens seen at each decode step; `steps` may be 0.

        Entry t is of the step that feeds the t-th generated token, counted from 0. Steps of rows that have
        ended are among them.
        """
        return self._attended()[1:]

    @property
    def seen(self) -> Tensor:
        """BoolTensor [steps, layers, batch, V]: the visual tokens that each layer attended to, the prefill
        first.

        Raises `DyrateError` after the engine `graph`, whose decode steps count them on the device.
        """
        generation = self._last()
        if len(generation.seen) < len(generation.attended):
            raise DyrateError(
                "the engine graph counts the visual tokens of a decode step, and does not keep which they "
                "were: generate by model.generate(...) inside the with block"
            )
        found = [torch.stack(by_layer)[:, self._rows(step)] for step, by_layer in enumerate(generation.seen)]
        return torch.stack(found)

    @property
    def class_mass(self) -> dict[int, Tensor]:
        """{layer: FloatTensor [steps, batch, heads, 4]} of the layers read and those in `record=`."""
        recorded = self._last().class_mass
        return {
            layer: torch.stack([by_layer[layer][self._rows(step)] for step, by_layer in enumerate(recorded)])
            for layer in sorted(recorded[0] if recorded else ())
        }

    @property
    def observed(self) -> list[tuple[int, ...]]:
        """Per step the layers whose attention was read."""
        return [tuple(sorted(by_layer)) for by_layer in self._last().class_mass]

    @property
    def prompt_queries(self) -> dict[int, Tensor]:
        """{layer: LongTensor [batch]}: queries read at prefill, where more than the newest was."""
        return {layer: count[self._rows(0)] for layer, count in self._last().prompt_queries.items()}

    @property
    def steps(self) -> "pd.DataFrame":
        """One line per (row, step): mass_sys, mass_img, mass_ins, mass_res, rate, retained.

        The class mass is that of the layer that the method reports, averaged over heads, NaN for a method
        without one. `rate` is the share of the row's visual tokens that the last layer did not attend to,
        `retained` is 1 - rate; both are NaN for a row without visual tokens.
        """
        import pandas as pd

        visual, attended = self.visual_tokens, self._attended()
        seen = attended[:, -1:].sum(dim=1)
        retained = (seen.T.double() / visual[:, None].double()).cpu()
        if self._reported_layer is None or not len(attended):
            mass = torch.full((*retained.shape, 4), float("nan"))
        else:
            mass = self.class_mass[self._reported_layer].mean(dim=2).transpose(0, 1).cpu()
        rows, steps = map(range, retained.shape)
        index = pd.MultiIndex.from_product([rows, steps], names=["row", "step"])
        names = ["mass_sys", "mass_img", "mass_ins", "mass_res"]
        found = pd.DataFrame(mass.flatten(0, 1).numpy(), index, names)
        found["rate"], found["retained"] = 1 - retained.flatten().numpy(), retained.flatten().numpy()
        return found.reset_index()

    def begin(self, cache: ReducedCache) -> None:
        """Forget the last generation and start the record of a new one."""
        layout = cache.layout
        self.encoded, self.encoder_saved, self.encoder_macs = (0, 0), (0, 0), 0
        self.encoding_macs = 0
        self._generation = _Generation(cache, layout.visual_tokens, layout.text_tokens)

    def finish_prefill(
        self, kept: Iterable[Tensor], merged: Mapping[int, Tensor], prompt_queries: Mapping[int, Tensor]
    ) -> None:
        """Record what the prompt's forward leaves: per layer the tokens kept (BoolTensor [batch, V]); by
        layer what they were merged into (LongTensor [batch, V]), and queries read (LongTensor [batch]).
        """
        generation = self._last()
        generation.kept = list(kept)
        generation.merged, generation.prompt_queries = dict(merged), dict(prompt_queries)

    def finish_step(
        self,
        class_mass: Mapping[int, Tensor],
        attended: Iterable[Tensor],
        witnesses: Witnesses,
        seen: Iterable[Tensor] | None = None,
    ) -> None:
        """Record a forward pass: class mass [batch, heads, 4] by layer, of each layer, how many visual tokens
        it attended to (LongTensor [batch]), witnesses of what else must be finite, and, where it is known
        on the host, of each layer which visual tokens these were (BoolTensor [batch, V]).
        """
        generation = self._last()
        generation.class_mass.append(dict(class_mass))
        generation.attended.append(list(attended))
        if seen is not None:
            generation.seen.append(list(seen))
        mass = {f"class mass in layer {layer}": witness(found) for layer, found in class_mass.items()}
        generation.witnesses.append({**mass, **witnesses})

    def check_finite(self, cause: str) -> None:
        """Raise `NotFiniteError` if a step since the last check made numbers that are not finite; `cause`
        names method and dtype. Waits for the device.
        """
        if self._generation is not None:
            first = self._generation.checked
            self._generation.checked = len(self._generation.witnesses)
            check(self._generation.witnesses[first:], first, cause)

    def move_rows(self, rows: Tensor) -> None:
        """Record that row i now continues row `rows[i]`."""
        moves, last_step = self._last().moves, len(self._last().attended) - 1
        moves[last_step] = moves[last_step][rows] if last_step in moves else rows

    def close(self) -> None:
        """Let go of the KV cache; what it measured stays."""
        if self._generation is not None:
            self._generation.kv = self._generation.measure_cache()
            self._generation.cache = None

    def _last(self) -> _Generation:
        if self._generation is None:
            raise DyrateError("the run is empty: call model.generate(...) inside the with block first")
        return self._generation

    def _attended(self) -> Tensor:
        """LongTensor [steps, layers, batch]: visual tokens seen at each step, first of all at the prefill."""
        found = [
            torch.stack(by_layer)[:, self._rows(step)] for step, by_layer in enumerate(self._last().attended)
        ]
        visual = self.visual_tokens
        return torch.stack(found) if found else visual.new_zeros((0, len(self._last().kept), len(visual)))

    def _rows(self, step: int) -> Tensor | slice:
        """Index that puts a tensor recorded at `step` into the order of the rows after the last step."""
        rows: Tensor | slice = slice(None)
        moves = self._last().moves
        for moved in sorted((at for at in moves if at >= step), reverse=True):
            rows = moves[moved][rows]
        return rows
