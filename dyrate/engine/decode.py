"""The decode steps: sections of layers as captured graphs, and the method's say between them.

A step runs section after section. Before each one that starts at a prune layer the method is asked, by the
same code as everywhere, on tensors that stay on the device; the host never waits for them. On a GPU a section
is replayed from a CUDA graph, on a CPU it just runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyrate.attention import Statistics, Step
from dyrate.engine.kernels.attention import Attended, decode_attention
from dyrate.engine.kernels.linear import linear
from dyrate.engine.kernels.rope import rope_and_store
from dyrate.engine.memory import Memory, Section
from dyrate.engine.weights import LayerWeights
from dyrate.hooks import Attachment

Sampler = Callable[[Tensor, Tensor], Tensor]
"""(ids so far [batch, n], logits [batch, vocabulary]) -> scores [batch, vocabulary], whose best is taken."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """What a step needs of the model."""

    embed: Tensor
    """[vocabulary, d]."""
    layers: Sequence[LayerWeights]
    norm: Tensor
    """[d]: the last norm's weight."""
    head: Tensor
    """[vocabulary, d]."""
    head_bias: Tensor | None
    cos: Tensor
    """[positions, D]: rotary table."""
    sin: Tensor


@dataclass(frozen=True)
class Ending:
    """How rows end."""

    ends: tuple[int, ...]
    """Token ids that end a row."""
    padding: int
    """Token id that an ended row goes on with."""


class Decoder:
    """Decode steps for one memory and one way to end; graphs are captured once and replayed after that."""

    def __init__(
        self,
        backbone: Backbone,
        memory: Memory,
        observed: frozenset[int],
        ending: Ending,
        greedy: bool,
        room: int,
    ) -> None:
        self.backbone, self.memory, self.observed, self.greedy = backbone, memory, observed, greedy
        device, batch = backbone.embed.device, memory.batch
        self.tokens = torch.zeros(batch, dtype=torch.long, device=device)
        """LongTensor [batch]: the newest token of each row."""
        self.made = torch.full((batch, room), ending.padding, device=device)
        """LongTensor [batch, room]: the new tokens."""
        self.finished = torch.zeros(batch, dtype=torch.bool, device=device)
        """BoolTensor [batch]: rows that have ended."""
        self.logits: Tensor
        """FloatTensor [batch, vocabulary] of the last step."""
        self._ends = torch.tensor(ending.ends, dtype=torch.long, device=device)
        self._padding = torch.tensor(ending.padding, device=device)
        self._attended: dict[int, Attended] = {}
        self._graphs: list[Any] | None = None
        self._outputs: list[Tensor] = []
        self._warm = False

    def begin(self, scores: Tensor) -> None:
        """Take the first token from scores [batch, vocabulary] made of the prompt's logits."""
        self.finished.zero_()
        self.made.copy_(self._padding.expand_as(self.made))
        if self.memory.enlarged:
            self._graphs, self._warm = None, False
        self.accept(scores)

    def accept(self, scores: Tensor) -> None:
        """Take the best token of each row that has not ended, scores [batch, vocabulary]."""
        chosen = torch.where(self.finished, self._padding, scores.argmax(dim=-1))
        self.tokens.copy_(chosen)
        place = self.memory.generated.long().expand(len(chosen), 1)
        self.made.scatter_(1, place, chosen[:, None])
        self.finished |= (chosen[:, None] == self._ends).any(dim=1)

    def step(self, attachment: Attachment) -> Step:
        """Feed the newest tokens, and take the next ones if search is greedy; return what was seen."""
        step = attachment.begin_decode()
        cache = attachment.cache
        cache.seen += 1
        self._prepare_graphs()
        hidden = self.backbone.embed[:1]
        chosen: Tensor | None = None
        for number, section in enumerate(self.memory.sections):
            if section.layers.start in attachment.prune_layers:
                entering = hidden if number else self.backbone.embed.index_select(0, self.tokens)
                chosen = self._ask(attachment, number, entering, chosen)
            hidden = self._run(number, hidden)
            for layer in self.observed.intersection(section.layers):
                step.statistics[layer] = _statistics(self._attended[layer], section)
        return step

    def _ask(
        self, attachment: Attachment, number: int, hidden: Tensor, before: Tensor | None
    ) -> Tensor | None:
        """Let the method choose for the sections from `number` on; return the choice in force there."""
        section = self.memory.sections[number]
        keep = attachment.ask(section.layers.start, hidden[:, None])
        later = self.memory.sections[number:]
        if attachment.method.decode_mode == "evict":
            if keep is not None:
                stages = attachment.cache.stages
                for other in later:
                    other.evict(keep)
                    stage = stages[other.layers.start].without(keep)
                    stages[other.layers.start : other.layers.stop] = [stage] * len(other.layers)
            return None
        if keep is not None:
            if keep is not before:
                for other in later:
                    other.show(
                        None if keep is attachment.cache.stages[section.layers.start].present else keep
                    )
            return keep
        if before is None and section.seen is not section.held:
            section.show(None)
        return before

    def _prepare_graphs(self) -> None:
        """Capture the sections, once each kernel has been compiled by a first step without them."""
        if self._graphs is not None or not self.tokens.is_cuda:
            return
        if not self._warm:
            self._warm = True
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        graphs, self._outputs = [], []
        hidden = torch.empty(0)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for number in range(len(self.memory.sections)):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=pool)
                hidden = self._section(number, hidden)
                graph.capture_end()
                graphs.append(graph)
                self._outputs.append(hidden)
        torch.cuda.synchronize()
        self._graphs = graphs

    def _run(self, number: int, hidden: Tensor) -> Tensor:
        if self._graphs is None:
            return self._section(number, hidden)
        self._graphs[number].replay()
        return self._outputs[number]

    def _section(self, number: int, hidden: Tensor) -> Tensor:
        """Run the layers of a section on hidden states [batch, d]; the first one embeds the tokens."""
        backbone, section, generated = self.backbone, self.memory.sections[number], self.memory.generated
        if not number:
            generated += 1
            hidden = backbone.embed.index_select(0, self.tokens)
        positions = section.position_base + generated
        cos, sin = backbone.cos.index_select(0, positions), backbone.sin.index_select(0, positions)
        slots = section.slot_base + generated
        for layer in section.layers:
            weights = backbone.layers[layer]
            keys, values = section.keys[layer], section.values[layer]
            qkv = linear(hidden, weights.qkv, bias=weights.qkv_bias, norm=weights.input_norm, eps=weights.eps)
            query = rope_and_store(qkv, cos, sin, keys, values, slots)
            found = decode_attention(
                query, keys, values, section.reading, weights.scaling, layer in self.observed
            )
            if found.class_mass is not None:
                self._attended[layer] = found
            hidden = linear(found.output.flatten(1), weights.out, bias=weights.out_bias, residual=hidden)
            act = linear(hidden, weights.gate_up, norm=weights.post_norm, eps=weights.eps, gated=True)
            hidden = linear(act, weights.down, residual=hidden)
        if number == len(self.memory.sections) - 1:
            eps = backbone.layers[-1].eps
            logits = linear(hidden, backbone.head, bias=backbone.head_bias, norm=backbone.norm, eps=eps)
            self.logits = logits.float()
            if self.greedy:
                self.accept(self.logits)
        return hidden


def _statistics(found: Attended, section: Section) -> Statistics:
    """Return statistics by visual token, in memory of their own: the next step reuses the layer's."""
    assert found.class_mass is not None
    assert found.head_scores is not None
    head_scores = section.by_token(found.head_scores)
    scores = head_scores.mean(dim=1).masked_fill(~section.seen, float("-inf"))
    return Statistics(found.class_mass.clone(), scores, head_scores)
