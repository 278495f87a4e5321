"""The vision encoder, its activation as one kernel: of a few images as a CUDA graph, of very many in pieces.

For a few images its kernels are shorter than it takes a host to launch them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from dyrate.engine.capture import captured
from dyrate.engine.parts import Watch, changing_hook
from dyrate.engine.windows import has_windows, in_one_call
from dyrate.hooks import stand_in
from dyrate.kernels.activations import quick_gelu

_MOST_IMAGES = 16
"""More images keep the device busy anyway, and a graph would hold all their hidden states."""
_AT_ONCE = 128
"""Of more images the hidden states would be most of what is in memory: 8 prompts of 128 tiles are 1,024."""


class FusedEncoder:
    """A vision tower on fused kernels, and one captured call of it, for inputs like the last two."""

    def __init__(self, tower: nn.Module) -> None:
        self._tower = tower
        self._plain: Callable[..., Any] = tower.forward
        self._watch: Watch | None = None
        self._last: Any = None
        """What the last call that just ran was like."""
        self._captured: Any = None
        self._graph: Any = None
        self._pixels: Tensor
        self._output: Any

    def release(self) -> None:
        """Give back the graph and its memory."""
        self._captured = self._graph = self._output = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the tower run this way; hooks around it stay what they are."""
        before, self._plain = self._plain, self._tower.forward
        if self._watch is None or self._watch.changed() or self._plain != before:
            self._look()
        with ExitStack() as undo:
            for activation in self._activations:
                stand_in(activation, "forward", quick_gelu, undo)
            stand_in(self._tower, "forward", self._forward, undo)
            yield
        if self._watch is None:  # by now the model has put hooks of its own there
            self._watch = Watch(self._inner())

    def _look(self) -> None:
        """See what the tower is made of; a graph of what it was made of before is worth nothing."""
        self.release()
        self._watch = self._last = None
        inner = self._inner()
        replaced = [part for part in inner if "forward" in vars(part)]
        self._activations = [
            part for part in inner if type(part) is QuickGELUActivation and part not in replaced
        ]
        # A replay would leave out what others put there.
        self._by_itself = not replaced and not any(map(changing_hook, inner))
        self._windows = has_windows(self._tower)

    def _inner(self) -> list[nn.Module]:
        """All modules but the tower itself, whose hooks run at a replay, too, and come with each block."""
        return list(self._tower.modules())[1:]

    def _forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Do what the tower does; what it returns is overwritten by the next call."""
        if self._windows and self._by_itself:
            with in_one_call(self._tower):
                return self._plain(pixel_values, **kwargs)
        if not self._by_itself or any(isinstance(value, Tensor) for value in kwargs.values()):
            return self._plain(pixel_values, **kwargs)
        if len(pixel_values) > _AT_ONCE:
            return _joined([self._plain(piece, **kwargs) for piece in torch.split(pixel_values, _AT_ONCE)])
        if not pixel_values.is_cuda or len(pixel_values) > _MOST_IMAGES:
            return self._plain(pixel_values, **kwargs)
        call = pixel_values.shape, pixel_values.dtype, sorted(kwargs.items())
        if call == self._captured:
            self._pixels.copy_(pixel_values)
            self._graph.replay()
        elif call == self._last:  # so that every kernel of it has been compiled
            self._capture(pixel_values, kwargs)
            self._captured = call
        else:
            self._last = call
            return self._plain(pixel_values, **kwargs)
        return type(self._output)(**self._output)  # its caller adds to it

    def _capture(self, pixel_values: Tensor, kwargs: dict[str, Any]) -> None:
        self.release()  # before anything new is asked for
        self._pixels = pixel_values.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with captured(stream, torch.cuda.graph_pool_handle()) as graph:
            self._output = self._plain(self._pixels, **kwargs)
        graph.replay()
        self._graph = graph


def _joined(pieces: Sequence[Any]) -> Any:
    """Return what a tower gives for all images, from what it gives for pieces of them, in order."""
    first = pieces[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(pieces))
    if isinstance(first, tuple):
        return tuple(map(_joined, zip(*pieces, strict=True)))
    return type(first)(**{name: _joined([piece[name] for piece in pieces]) for name in first})
