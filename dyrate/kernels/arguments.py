"""What kernels take in one piece, on the CPU and on a GPU alike."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reading:
    """Which slots of a layer's cache a step reads: listed visual tokens, and all text up to now."""

    chosen: Tensor
    """IntTensor (int32) [batch, V]: visual slots without repetition, of which the first `count` are read, in
    any order; what follows them is ignored."""
    count: Tensor
    """IntTensor (int32) [batch]."""
    text_start: int
    """First slot of the text, V or more."""
    system: Tensor
    """IntTensor (int32) [batch]: system tokens."""
    text: Tensor
    """IntTensor (int32) [batch]: text tokens of the prompt, system and instruction."""
    generated: Tensor
    """IntTensor (int32) [1]: generated tokens in the cache, the incoming one included. It is read on the
    device, so that a captured graph can be replayed as it grows."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The numbers of a perceptron of one hidden layer, all float32."""

    mean: Tensor
    """[inputs], subtracted from them."""
    std: Tensor
    """[inputs], which they are divided by then."""
    hidden: Tensor
    """[hidden, inputs]"""
    hidden_bias: Tensor
    """[hidden]"""
    out: Tensor
    """[outputs, hidden]"""
    out_bias: Tensor
    """[outputs]"""
