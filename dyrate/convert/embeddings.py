"""The tokens that an original vocabulary lacks, and their rows in the tables of tokens.

transformers' own conversion (`models/llava/convert_llava_weights_to_hf.py`) appends `<image>` and `<pad>`,
32000 and 32001 at LLaVA-1.5, pads the number of rows to a multiple of 64 (32064), and draws *all* new rows,
those of the output head too, from the normal distribution that has the mean of the old embeddings E [n,
hidden] and 1e-5 of their covariance. So do we, from a fixed seed. No covariance is made: with z ~ N(0, 1) of
n numbers, mean + sqrt(1e-5 / n) z (E - mean) is distributed so, also where n is smaller than `hidden` and a
Cholesky decomposition would fail.
"""

from collections.abc import Callable

import torch
from torch import Tensor

IMAGE, PAD = "<image>", "<pad>"
_MULTIPLE = 64
_SPREAD = 1e-5
_SEED = 0
_AT_ONCE = 4096  # rows of E in double precision


def padded(vocabulary: int) -> int:
    """Rows of the tables for a vocabulary to which two tokens are added."""
    return -(-(vocabulary + 2) // _MULTIPLE) * _MULTIPLE


def drawn(embeddings: Tensor, count: int) -> Tensor:
    """Return new rows, DoubleTensor [count, hidden], for embeddings [n, hidden]; the same at each call."""
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(count, len(embeddings), generator=generator, dtype=torch.float64)
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(embeddings), _AT_ONCE)]
    mean = torch.stack([embeddings[part].double().sum(0) for part in parts]).sum(0) / len(embeddings)
    found = -noise.sum(1, keepdim=True) * mean
    for part in parts:
        found += noise[:, part] @ embeddings[part].double()
    found *= (_SPREAD / len(embeddings)) ** 0.5
    return mean + found


def appended(first: int, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what puts `count` drawn rows, from the `first` of twice as many, under a table of tokens.

    It is called with the table and the input embeddings, each [n, hidden].
    """

    def append(table: Tensor, embeddings: Tensor) -> Tensor:
        rows = drawn(embeddings, 2 * count)[first : first + count]
        return torch.cat([table, rows.to(table.dtype)])

    return append
