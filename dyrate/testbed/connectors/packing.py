"""Packed examples with the visual tokens of a connector: fewer of them, or others for every question."""

import torch
from torch import Tensor

from dyrate.connectors.connector import Connector, Question
from dyrate.testbed.models.architecture import VISUAL_TOKENS
from dyrate.testbed.models.packing import NO_TARGET, PackedBatch


def with_visual_tokens(batch: PackedBatch, count: int, turns: int = 0) -> PackedBatch:
    """Return the batch with `count` places for visual tokens, one position apart, in the prefix; with
    `turns`, with so many for each of the first `turns` turns, seen by that turn alone.
    """
    first, last = batch.first_visual_token, batch.first_visual_token + VISUAL_TOKENS
    rows, places = len(batch.input_ids), count * max(turns, 1)
    steps = torch.arange(first, first + count, device=batch.input_ids.device).repeat(max(turns, 1))
    owners = torch.arange(1, turns + 1, device=steps.device).repeat_interleave(count) if turns else 0 * steps

    def put(values: Tensor, between: Tensor) -> Tensor:
        return torch.cat([values[:, :first], between.to(values.dtype), values[:, last:]], dim=1)

    moved = first + count - (batch.position_ids[:, last - 1 : last] + 1)
    positions = torch.cat([batch.position_ids[:, :last], batch.position_ids[:, last:] + moved], dim=1)
    return batch._replace(
        input_ids=put(batch.input_ids, batch.input_ids[:, first : first + 1].expand(-1, places)),
        targets=put(batch.targets, torch.full((rows, places), NO_TARGET, device=steps.device)),
        weights=put(batch.weights, torch.zeros(rows, places, device=steps.device)),
        position_ids=put(positions, steps.expand(rows, -1)).clamp_min(0),
        segments=put(batch.segments, owners.expand(rows, -1)),
    )


def questions_of(batch: PackedBatch, turns: int, ends: tuple[int, int], connector: Connector) -> Question:
    """Return what the first `turns` turns of each row ask, [rows x turns, words], row after row.

    `ends`: tokens of a turn before its question and after it, up to where its answer begins.
    """
    last = batch.first_visual_token + VISUAL_TOKENS
    ids, segments = batch.input_ids[:, last:], batch.segments[:, last:]
    places = torch.arange(ids.shape[1], device=ids.device)
    own = segments[:, None] == torch.arange(1, turns + 1, device=ids.device)[:, None]
    answers = own & (batch.targets[:, None, last:] != NO_TARGET)
    begin = own.int().argmax(-1) + ends[0]
    end = answers.int().argmax(-1) + 1 - ends[1]
    if connector.keeps_end:
        begin = torch.maximum(begin, end - connector.words)
    index = begin[..., None] + places[: connector.words]
    mask = (index < end[..., None]) & own.any(-1, keepdim=True)
    found = ids[:, None].expand(-1, turns, -1).gather(-1, index.clamp_max(ids.shape[1] - 1))
    return Question((found * mask).flatten(0, 1), mask.flatten(0, 1))
