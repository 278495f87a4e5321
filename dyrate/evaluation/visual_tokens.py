"""Visual tokens per layer: sums over a batch's rows and steps, and the true means that results report."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from dyrate.evaluation.results import VisualTokens

if TYPE_CHECKING:
    import torch


class TokenSums(TypedDict):
    """Visual tokens of a batch, as sums, so that batches add up to true means."""

    rows: int  # rows with an image
    total: int  # visual tokens of those rows
    prefill: list[int]  # per layer: kept on entering it, summed over rows
    decode: list[float]  # per layer: attended, summed over rows and decode steps
    decode_steps: int  # (row, decode step) pairs behind `decode`


def decode_steps(made: "torch.Tensor", ends: int | Sequence[int]) -> int:
    """(row, step) pairs after the first token up to each row's end, in LongTensor [rows, new tokens]."""
    import torch

    end = torch.isin(made, torch.as_tensor(ends, device=made.device))
    before = (end.cumsum(1) == 0).sum(1)  # tokens before the end; feeding each gives one more step
    return int(before.clamp(max=made.shape[1] - 1).sum())


def token_sums(run: Any, steps: int) -> TokenSums:
    """The sums of one generation's `run`, with `decode_steps` steps.

    The run's mean over decode steps includes rows that had ended; it stands for the rows that had not.
    """
    visual = run.visual_tokens
    return {
        "rows": len(visual),
        "total": int(visual.sum()),
        "prefill": [sum(len(row) for row in rows) for _, rows in sorted(run.kept.items())],
        "decode": [mean * steps for mean in run.decode_tokens.tolist()] if steps else [0.0] * len(run.kept),
        "decode_steps": steps,
    }


def add(one: TokenSums | None, other: TokenSums | None) -> TokenSums | None:
    """The sums of two parts of a batch; None is a part without images."""
    if one is None or other is None:
        return one or other
    return {
        "rows": one["rows"] + other["rows"],
        "total": one["total"] + other["total"],
        "prefill": [a + b for a, b in zip(one["prefill"], other["prefill"], strict=True)],
        "decode": [a + b for a, b in zip(one["decode"], other["decode"], strict=True)],
        "decode_steps": one["decode_steps"] + other["decode_steps"],
    }


def true_means(batches: Iterable[TokenSums]) -> VisualTokens | None:
    """True means per layer from the sums of all batches; None where no sample had an image."""
    batches = list(batches)
    rows = sum(batch["rows"] for batch in batches)
    steps = sum(batch["decode_steps"] for batch in batches)
    if not rows:
        return None
    prefill = [sum(column) / rows for column in zip(*(batch["prefill"] for batch in batches), strict=True)]
    decode = [sum(column) for column in zip(*(batch["decode"] for batch in batches), strict=True)]
    return {
        "total": sum(batch["total"] for batch in batches) / rows,
        "prefill": prefill,
        "decode": [value / steps for value in decode] if steps else None,
    }
