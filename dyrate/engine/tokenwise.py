"""What a decoder layer does to each token of a short prompt by itself, captured as CUDA graphs.

The kernels of a short prompt are shorter than it takes a host to launch them. All but attention treats tokens
one by one, so that rows which mean nothing may stand behind them: a graph serves all prompts of up to as many
tokens, whatever a method has left of them. Attention, which methods look at, is launched as ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from dyrate.engine.capture import captured
from dyrate.engine.weights import LayerWeights
from dyrate.kernels.activations import swiglu
from dyrate.kernels.norm import rms_norm
from dyrate.kernels.rope import rope_and_split

_MOST = 2048
"""More tokens than that, of all rows together, keep a GPU busy anyway."""
_STEP = 64
"""Graphs are made for multiples of so many tokens."""
_KEPT = 16
"""As many of these sizes as have graphs at the same time."""


@dataclass(frozen=True)
class _Places:
    """What graphs read and write, first so many tokens each; hidden size d, heads of D numbers."""

    states: Tensor
    """[most, d]."""
    cos: Tensor
    """[most, D]."""
    sin: Tensor
    query: Tensor
    """[most, heads, D]."""
    key: Tensor
    """[most, kv_heads, D]."""
    value: Tensor
    found: Tensor
    """[most, heads D]: attention's output."""


class Tokenwise:
    """The two parts of every layer, before its attention and after, for up to 2048 tokens.

    A size that is seen for the first time runs as it is, and gives what its graphs will give: which prompts
    came before does not matter.
    """

    def __init__(self, layers: Sequence[LayerWeights]) -> None:
        self._layers = layers
        self._places: _Places | None = None
        self._angles: Tensor | None = None
        self._graphs: dict[int, dict[tuple[int, str], torch.cuda.CUDAGraph | None]] = {}
        """By size, least recently used first: by layer and part, a graph, or None after the first time."""
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def serves(self, states: Tensor) -> bool:
        """Whether states [batch, tokens, d] are worth it."""
        return states.is_cuda and states.shape[0] * states.shape[1] <= _MOST

    def release(self) -> None:
        """Give back graphs and memory."""
        self._places = self._angles = self._pool = None
        self._graphs = {}

    def before(self, layer: int, states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key, value [batch, heads, tokens, D], which the next layer overwrites.

        States [batch, tokens, d]; cos, sin [batch or 1, tokens, D].
        """
        batch, tokens, _ = states.shape
        places = self._places = self._places or self._made(layer, states, cos)
        count = batch * tokens
        places.states[:count].view(states.shape).copy_(states)
        if cos is not self._angles:
            for given, kept in ((cos, places.cos), (sin, places.sin)):
                kept[:count].view(batch, tokens, -1).copy_(given)
            self._angles = cos
        self._run(layer, "project", count)
        query, key, value = (
            part[:count].view(batch, tokens, *part.shape[1:]).transpose(1, 2)
            for part in (places.query, places.key, places.value)
        )
        return query, key, value

    def after(self, layer: int, found: Tensor) -> Tensor:
        """Return the layer's output [batch, tokens, d], of what its attention has found [batch, tokens, heads
        x D]; `before` has seen its input.
        """
        places = self._places
        assert places is not None
        batch, tokens, _ = found.shape
        count = batch * tokens
        places.found[:count].view(found.shape).copy_(found)
        self._run(layer, "feed", count)
        return places.states[:count].view(batch, tokens, -1).clone()

    def _made(self, layer: int, states: Tensor, cos: Tensor) -> _Places:
        weights, width = self._layers[layer], cos.shape[-1]
        heads = weights.out.shape[1] // width
        kv_heads = (len(weights.qkv) // width - heads) // 2

        def rows(*shape: int, like: Tensor = states) -> Tensor:
            return like.new_zeros(_MOST, *shape)

        return _Places(
            states=rows(states.shape[-1]),
            cos=rows(width, like=cos),
            sin=rows(width, like=cos),
            query=rows(heads, width),
            key=rows(kv_heads, width),
            value=rows(kv_heads, width),
            found=rows(heads * width),
        )

    def _run(self, layer: int, part: str, count: int) -> None:
        """Run a part of a layer on the first `count` tokens, and on what lies behind them."""
        size = -(-count // _STEP) * _STEP
        run: Callable[[int, int], None] = {"project": self._project, "feed": self._feed}[part]
        graphs = self._graphs[size] = self._graphs.pop(size, {})
        if (layer, part) not in graphs:  # so that every kernel of it has been compiled
            run(layer, size)
            graphs[layer, part] = None
            if len(self._graphs) > _KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            return
        graph = graphs[layer, part]
        if graph is None and self._places is not None and self._places.states.is_cuda:
            graph = graphs[layer, part] = self._captured(run, layer, size)
        if graph is None:
            run(layer, size)
        else:
            graph.replay()

    def _captured(self, run: Callable[[int, int], None], layer: int, size: int) -> torch.cuda.CUDAGraph:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with captured(self._stream, self._pool) as graph:
            run(layer, size)
        return graph

    def _project(self, layer: int, size: int) -> None:
        """Make query, key and value."""
        weights, places = self._layers[layer], self._places
        assert places is not None
        normed = rms_norm(places.states[:size], weights.input_norm, weights.eps)
        qkv = product(normed, weights.qkv, weights.qkv_bias)
        query, key, value = (
            part[None, :size].transpose(1, 2) for part in (places.query, places.key, places.value)
        )
        angles = places.cos[None, :size], places.sin[None, :size]
        rope_and_split(qkv[None], *angles, key.shape[1], weights.head_norms, (query, key, value))

    def _feed(self, layer: int, size: int) -> None:
        """Add to the states what attention has found, and what the feed-forward part makes of them."""
        weights, places = self._layers[layer], self._places
        assert places is not None
        states = places.states[:size]
        states.add_(product(places.found[:size], weights.out, weights.out_bias))
        normed = rms_norm(states, weights.post_norm, weights.eps)
        torch.addmm(states, swiglu(product(normed, weights.gate_up)), weights.down.t(), out=states)
