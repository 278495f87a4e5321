"""Visual tokens per layer: sums over a batch's rows and steps, and the true means that results report."""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import zip_longest
from math import sqrt
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from dyrate.evaluation import results

if TYPE_CHECKING:
    import torch


class TokenSums(TypedDict):
    """Visual tokens of a batch, as sums, so that batches add up to true means."""

    rows: int  # rows with an image
    total: int  # visual tokens of those rows
    prefill: list[int]  # per layer: kept on entering it, summed over rows
    decode: list[float]  # per layer: attended, summed over answers and their decode steps
    decode_steps: int  # (answer, decode step) pairs behind `decode`
    # By step, the prompt's first: answers that get there, then over these the sum of squares of what the last
    # layer attends to, and the sums of what each layer does.
    by_step: NotRequired[list[list[float]]]
    work: NotRequired[dict[str, Any]]  # what went through each layer, as `dyrate.cost.work.Phases` has it


def decode_steps(made: "torch.Tensor", ends: int | Sequence[int]) -> "torch.Tensor":
    """LongTensor [answers]: decode steps of each up to its end, of `made`, LongTensor [answers, tokens]."""
    import torch

    end = torch.isin(made, torch.as_tensor(ends, device=made.device))
    before = (end.cumsum(1) == 0).sum(1)  # tokens before the end; feeding each gives one more step
    return before.clamp(max=made.shape[1] - 1)


def token_sums(run: Any, steps: "torch.Tensor") -> TokenSums:
    """The sums of one generation's `run`, whose answers have `decode_steps` steps.

    Steps of a row after its answer's end do not count. Under beam search an answer's tokens at a step are the
    mean over its beams.
    """
    import torch

    visual, attended = run.visual_tokens, run.decode_tokens_per_row
    beams = len(visual) // len(steps)
    alive = torch.arange(len(attended), device=steps.device)[:, None] < steps.repeat_interleave(beams)
    kept = run.kept_counts.to(attended.device)
    seen = torch.cat([kept[None], attended * alive[:, None]]).double().cpu()
    seen = seen.reshape(*seen.shape[:2], -1, beams).mean(dim=3)  # [steps, layers, answers]
    answers = [len(steps), *(alive.sum(dim=1) // beams).tolist()]
    squares = (seen[:, -1] ** 2).sum(dim=1).tolist()
    sums = zip(answers, squares, seen.sum(dim=2).tolist(), strict=True)
    return {
        "rows": len(visual),
        "total": int(visual.sum()),
        "prefill": run.kept_counts.sum(dim=1).tolist(),
        "decode": [count / beams for count in (attended * alive[:, None]).sum(dim=(0, 2)).tolist()],
        "decode_steps": int(steps.sum()),
        "by_step": [[count, square, *layers] for count, square, layers in sums if count],
    }


def add(one: TokenSums | None, other: TokenSums | None) -> TokenSums | None:
    """The sums of two parts of a batch; None is a part without images."""
    if one is None or other is None:
        return one or other
    return cast(TokenSums, _sum(one, other))


def _sum(one: Any, other: Any) -> Any:
    """The sum of numbers, of lists, or of mappings, in the keys of both."""
    if isinstance(one, dict):
        return {key: _sum(one[key], other[key]) for key in one if key in other}
    if isinstance(one, list) and one and isinstance(one[0], list):  # by step: the longer one goes on alone
        return [a if b is None else b if a is None else _sum(a, b) for a, b in zip_longest(one, other)]
    if isinstance(one, list):
        return [_sum(*pair) for pair in zip(one, other, strict=True)]
    return one + other


def means_and_work(batches: Iterable[TokenSums]) -> tuple[results.VisualTokens | None, results.Phases | None]:
    """Of all batches, the true means per layer and the work.

    No means where no sample had an image, and no work where a batch does not say.
    """
    total = reduce(add, batches, None)
    if total is None or not total["rows"]:
        return None, None
    rows, steps = total["rows"], total["decode_steps"]
    means: results.VisualTokens = {
        "total": total["total"] / rows,
        "prefill": [kept / rows for kept in total["prefill"]],
        "decode": [attended / steps for attended in total["decode"]] if steps else None,
    }
    if by_step := total.get("by_step"):
        means["by_step"] = {
            "answers": [int(answers) for answers, *_ in by_step],
            "mean": [[round(seen / answers, 4) for seen in layers] for answers, _, *layers in by_step],
            "deviation": [
                round(sqrt(max(0.0, square / answers - (layers[-1] / answers) ** 2)), 4)
                for answers, square, *layers in by_step
            ],
        }
    return means, cast("results.Phases | None", total.get("work"))
