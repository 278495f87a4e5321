"""What a decode step computes: embeddings, sections of layers, logits, and attention that methods read.

All of it is work for the device in shapes that stay, so that a CUDA graph can hold any part.
"""

from torch import Tensor

from dyrate.attention_rows import Attention
from dyrate.engine.memory import Memory, Section
from dyrate.engine.rows import attention_of
from dyrate.engine.weights import Backbone
from dyrate.kernels.attention import Attended, decode_attention
from dyrate.kernels.residual import ResidualStream
from dyrate.kernels.rope import rope_and_store
from dyrate.needs import Needs


class DecodeLayers:
    """The layers of a model over one memory, one newest token of each row at a time."""

    def __init__(self, backbone: Backbone, memory: Memory, needs: Needs) -> None:
        self.logits: Tensor
        """[batch, vocabulary] of the last step, in the model's dtype."""
        self._backbone, self._memory, self._needs = backbone, memory, needs
        self._observed = frozenset(needs.observed)
        self._attended: dict[int, tuple[Tensor, Attended]] = {}
        """By layer whose attention is read, its query [batch, heads, D], and what that has found."""
        self._places: tuple[Tensor, ...]
        """Of the newest tokens, by section: slots [sections, batch], cos and sin [sections, batch, D]."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Begin a step: find places for the newest tokens (LongTensor [batch]), and return their embeddings
        [batch, d].
        """
        backbone, generated = self._backbone, self._memory.generated
        generated += 1
        slots, positions = self._memory.bases + generated
        angles = (table.index_select(0, positions.flatten()) for table in (backbone.cos, backbone.sin))
        self._places = slots, *(angle.view(*positions.shape, -1) for angle in angles)
        return backbone.embed.index_select(0, tokens)

    def section(self, number: int, hidden: Tensor) -> Tensor:
        """Run the layers of a section on hidden states [batch, d], which it may overwrite; the last one makes
        logits.
        """
        backbone, section = self._backbone, self._memory.sections[number]
        summed = not self._needs.whole_rows  # else rows are read as a whole, and summed then
        stream = ResidualStream(hidden)
        for layer in section.layers:
            weights, observed = backbone.layers[layer], layer in self._observed
            keys, values = section.keys[layer], section.values[layer]
            query = self._query(number, layer, stream)
            found = decode_attention(
                query, keys, values, section.reading, weights.scaling, observed and summed
            )
            if observed:
                self._attended[layer] = query, found
            stream.add(found.output.flatten(1), weights.out, weights.out_bias)
            act = stream.project(weights.gate_up, norm=weights.post_norm, eps=weights.eps, gated=True)
            stream.add(act, weights.down)
        if number == len(self._memory.sections) - 1:
            eps = backbone.layers[-1].eps
            self.logits = stream.project(backbone.head, bias=backbone.head_bias, norm=backbone.norm, eps=eps)
        return stream.hidden

    def attention(self, number: int) -> dict[int, Attention]:
        """Return what is read of the layers of a section that has run, by layer."""
        section = self._memory.sections[number]
        return {layer: self._read(section, layer) for layer in self._observed.intersection(section.layers)}

    def ahead(self, number: int, hidden: Tensor, seen: Tensor) -> dict[int, Attention]:
        """Return, where needs ask so, the attention of a section's first layer before it runs on hidden
        states [batch, d], as it sees `seen` (BoolTensor [batch, V]) of the visual tokens; else nothing.
        """
        section = self._memory.sections[number]
        layer = section.layers.start
        if layer not in self._needs.ahead:
            return {}
        # Its key and value are in the cache from here on; the layer makes the same again.
        query = self._query(number, layer, ResidualStream(hidden))
        return {layer: self._whole(section, layer, query, seen)}

    def _query(self, number: int, layer: int, stream: ResidualStream) -> Tensor:
        """Return the newest query of a section's layer [batch, heads, D]; key and value go into the cache."""
        weights, section = self._backbone.layers[layer], self._memory.sections[number]
        slots, cos, sin = (of_sections[number] for of_sections in self._places)
        qkv = stream.project(weights.qkv, bias=weights.qkv_bias, norm=weights.input_norm, eps=weights.eps)
        memory = section.keys[layer], section.values[layer]
        return rope_and_store(qkv, cos, sin, *memory, slots, weights.head_norms)

    def _read(self, section: Section, layer: int) -> Attention:
        query, found = self._attended[layer]
        if self._needs.whole_rows:
            return self._whole(section, layer, query, section.seen)
        assert found.class_mass is not None
        assert found.head_scores is not None
        return Attention(found.class_mass, section.by_token(found.head_scores), section.seen)

    def _whole(self, section: Section, layer: int, query: Tensor, seen: Tensor) -> Attention:
        scaling, whole = self._backbone.layers[layer].scaling, self._needs.whole_rows
        return attention_of(section, layer, query, scaling, seen, whole=whole)
