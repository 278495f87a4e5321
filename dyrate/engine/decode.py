"""The decode steps: a captured graph per step, or, where a method must be asked anew, per section of layers.

A step runs section after section. Before each one that starts at a prune layer the method is asked, by the
same code as everywhere, on tensors that stay on the device; the host never waits for them. On a GPU the whole
step of a method that is `capturable` (see `Needs`) is one CUDA graph; with others the sections are graphs,
and the method's own operations run between them. On a CPU everything just runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dyrate.attachment import Attachment
from dyrate.attention_rows import Attention
from dyrate.contract import Contract
from dyrate.engine.capture import captured
from dyrate.engine.layers import DecodeLayers
from dyrate.engine.memory import Memory, Section
from dyrate.engine.weights import Backbone
from dyrate.finite import witness
from dyrate.needs import Needs
from dyrate.refusals import check_answer
from dyrate.views import AttentionByLayer, DecodeView

Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class DecodeSetting:
    """What a decoder is made for."""

    method: Contract
    needs: Needs
    ends: tuple[int, ...]
    """Token ids that end a row."""
    padding: int
    """Token id that an ended row goes on with."""
    greedy: bool
    """Whether a step takes its own next token."""

    @property
    def capturable(self) -> bool:
        """Whether one graph does for all steps."""
        return not self.needs.decode or self.needs.capturable


class Decoder:
    """Decode steps for one memory and one setting; graphs are captured once and replayed after that."""

    def __init__(self, backbone: Backbone, memory: Memory, setting: DecodeSetting, room: int) -> None:
        self.backbone, self.memory, self.setting = backbone, memory, setting
        device, batch = backbone.embed.device, memory.batch
        self.tokens = torch.zeros(batch, dtype=torch.long, device=device)
        """LongTensor [batch]: the newest token of each row."""
        self.made = torch.full((batch, room), setting.padding, device=device)
        """LongTensor [batch, room]: the new tokens."""
        self.finished = torch.zeros(batch, dtype=torch.bool, device=device)
        """BoolTensor [batch]: rows that have ended."""
        self.seen = memory.counts.new_zeros(room, len(memory.sections), batch)
        """IntTensor (int32) [room, sections, batch]: visual tokens seen at each step."""
        self.class_mass: dict[int, Tensor] = {}
        """By layer, FloatTensor [room, batch, heads, 4]."""
        self.witnesses: dict[str, Tensor] = {}
        """By what they vouch for, FloatTensor [room, batch]; see `finite`."""
        self._ends = torch.tensor(setting.ends, dtype=torch.long, device=device)
        self._padding = torch.tensor(setting.padding, device=device)
        self._visual_tokens = torch.zeros(batch, dtype=torch.long, device=device)
        self._state: dict[str, Tensor] = {}
        self._previous: dict[int, Attention] = {}
        self._layers = DecodeLayers(backbone, memory, setting.needs)
        self._looked_at: set[int] = set()
        self._steps = 0
        self._warm = False
        self._graph: Any = None
        self._graphs: list[tuple[Any, Tensor]] = []
        """By part, its graph and what it returns."""

    @property
    def logits(self) -> Tensor:
        """[batch, vocabulary] of the last step, in the model's dtype."""
        return self._layers.logits

    def begin(self, attachment: Attachment, scores: Tensor) -> None:
        """Take over from the prompt, and take the first token from scores [batch, vocabulary]."""
        generation = attachment.generation
        if self.memory.enlarged:
            self._forget()
            self.memory.enlarged = False
        self._steps = 0
        self._visual_tokens.copy_(generation.cache.layout.visual_tokens)
        if not self._state.keys() <= generation.state.keys():  # what steps of the prompt before remembered
            self._state = {}
            self._forget()
        self._remember(generation.state, generation.forward.attention)
        self.finished.zero_()
        self.made.copy_(self._padding.expand_as(self.made))
        self.accept(scores)

    def accept(self, scores: Tensor) -> None:
        """Take the best token of each row that has not ended, scores [batch, vocabulary]."""
        chosen = torch.where(self.finished, self._padding, scores.argmax(dim=-1))
        self.tokens.copy_(chosen)
        place = self.memory.generated.long().expand(len(chosen), 1)
        self.made.scatter_(1, place, chosen[:, None])
        self.finished |= (chosen[:, None] == self._ends).any(dim=1)

    def step(self) -> None:
        """Feed the newest tokens; if search is greedy, take the next ones."""
        self._steps += 1
        if self.tokens.is_cuda and self._warm and self._graph is None and not self._graphs:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step()
        self._warm = True  # every kernel has been compiled

    def _capture(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        if self.setting.capturable:
            with captured(stream, pool) as graph:
                self._step()
            self._graph = graph
        else:
            hidden = self.backbone.embed[:1]
            for part in range(1 + len(self.memory.sections)):
                with captured(stream, pool) as graph:
                    hidden = self._part(part, hidden)
                self._graphs.append((graph, hidden))
        torch.cuda.synchronize()

    def _forget(self) -> None:
        """Give up the graphs: something that they use lies elsewhere now."""
        self._graph, self._graphs, self._warm = None, [], False

    def _run(self, part: int, hidden: Tensor) -> Tensor:
        if not self._graphs:
            return self._part(part, hidden)
        graph, hidden = self._graphs[part]
        graph.replay()
        return hidden

    def _step(self) -> None:
        """Run all sections, the method's say between them, and the record of it all."""
        attention: dict[int, Attention] = {}
        witnesses: dict[str, Tensor] = {}
        state = dict(self._state)
        hidden = self._run(0, self.backbone.embed[:1])
        chosen: Tensor | None = None
        for number, section in enumerate(self.memory.sections):
            if section.layers.start in self.setting.needs.decode:
                seen = section.held if chosen is None else section.seen
                ahead = self._layers.ahead(number, hidden, seen)
                keep = self._decide(section, hidden, attention | ahead, state, witnesses)
                chosen = self._apply(number, keep, chosen)
            hidden = self._run(number + 1, hidden)
            attention |= self._layers.attention(number)
        self._remember(state, attention)
        for layer, found in attention.items():
            self._log(self.class_mass, layer, found.class_mass)
        for name, value in {**witnesses, "logits": witness(self.logits)}.items():
            self._log(self.witnesses, name, value)
        self.seen.index_copy_(0, self.memory.generated.long(), self.memory.counts[None])

    def _log(self, logs: dict[Key, Tensor], key: Key, value: Tensor) -> None:
        """Write what a step found, [batch, ...], into its place of a log [room, batch, ...]."""
        if key not in logs:
            logs[key] = value.new_zeros(self.made.shape[1], *value.shape)
        logs[key].index_copy_(0, self.memory.generated.long(), value[None])

    def _decide(
        self,
        section: Section,
        hidden: Tensor,
        attention: Mapping[int, Attention],
        state: dict[str, Tensor],
        witnesses: dict[str, Tensor],
    ) -> Tensor | None:
        """Ask the method what this step sees from a section on, hidden states [batch, d]."""
        if not section.held.shape[1]:
            return None
        method, layer = self.setting.method, section.layers.start
        where = f"view at step {self._steps}, entering layer {layer},"
        view = DecodeView(
            layer=layer,
            step=self._steps,
            present=section.held,
            visual_tokens=self._visual_tokens,
            newest_state=hidden.clone(),  # the method may keep it, and layers overwrite it
            attention=AttentionByLayer(attention, where),
            previous=AttentionByLayer(self._previous, f"{where} of the step before", self._looked_at.add),
            state=state,
            _witnesses=witnesses,
        )
        keep = method.decode(view)
        if keep is not None:
            check_answer(method, keep, section.held)
        return keep

    def _apply(self, number: int, keep: Tensor | None, before: Tensor | None) -> Tensor | None:
        """Let the sections from `number` on read what the method keeps; return the choice in force there."""
        sections = self.memory.sections[number:]
        if self.setting.needs.decode_mode == "evict":
            if keep is not None:
                for section in sections:
                    section.evict(keep)
            return None
        if keep is None:
            for section in sections if before is None else ():
                if section.seen is not section.held:
                    section.show(None)
            return before
        for section in sections:
            section.show(None if keep is section.held else keep)
        return keep

    def _part(self, part: int, hidden: Tensor) -> Tensor:
        """Run what a step consists of, where a method is asked in between: the embeddings, or the section of
        that number less one. It takes hidden states [batch, d] and returns them.
        """
        if not part:
            return self._layers.embed(self.tokens)
        hidden = self._layers.section(part - 1, hidden)
        if self.setting.greedy and part == len(self.memory.sections):
            self.accept(self.logits)
        return hidden

    def _remember(self, state: Mapping[str, Tensor], attention: Mapping[int, Attention]) -> None:
        """Keep for the next step, where it will be looked for, what this one leaves behind."""
        for name, value in state.items():
            self._state[name] = self._kept(self._state.get(name), value)
        # After its first step it is known what a capturable method looks back at.
        known = self.setting.capturable and self._warm
        for layer in self._looked_at.intersection(attention) if known else attention:
            found, old = attention[layer], self._previous.get(layer)
            parts = ("class_mass", "head_scores", "seen")
            kept = (self._kept(getattr(old, part, None), getattr(found, part)) for part in parts)
            class_mass, head_scores, seen = kept
            self._previous[layer] = Attention(class_mass, head_scores, seen)

    def _kept(self, old: Tensor | None, new: Tensor) -> Tensor:
        if old is not None and old.shape == new.shape and old.dtype == new.dtype:
            return old if old is new else old.copy_(new)
        self._forget()
        return new.clone()
