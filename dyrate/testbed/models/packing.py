"""Packs an image and its questions into one sequence in which each question stands as if it were alone.

One prefix (`<s>USER: ` and the visual tokens) is shared; each question with its answer is a branch that sees
the prefix and itself, at the positions that it has at inference. So one forward trains on ten single-turn
conversations for little more than the price of one, and shows the model nothing that inference does not.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from dyrate.testbed.models.architecture import VISUAL_TOKENS
from dyrate.testbed.models.tokenizer import CAPTION_LENGTH, VICUNA, Dialogue, caption_tokenizer
from dyrate.testbed.world.examples import CAPTION_KIND, DialogueTurn, Example

NO_TARGET = -100  # torch's own mark for "no loss here"
PREFIX_SEGMENT = 0
PADDING_SEGMENT = -1


class PackedBatch(NamedTuple):
    """Packed examples; B rows of S tokens."""

    first_visual_token: int  # where the visual tokens begin, the same in every row
    images: Tensor  # uint8 [B, 168, 168, 3], or as the packer of another family has them
    input_ids: Tensor  # int64 [B, S]
    targets: Tensor  # int64 [B, S]: the token to predict at this position, or NO_TARGET
    weights: Tensor  # float32 [B, S]: weight of this position's loss, 0 where there is no target
    position_ids: Tensor  # int64 [B, S], or [axes, B, S]
    segments: Tensor  # int16 [B, S]: 0 in the prefix, i in the i-th turn packed, -1 in the padding
    captions: Tensor  # int64 [B, 77], for CLIP's text tower
    captioned: Tensor  # bool [B]: whether there is one

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch on another device, copying in the background where memory is pinned."""
        first_visual_token, *parts = self
        moved = (part.to(device, non_blocking=True) for part in parts)
        return PackedBatch(first_visual_token, *moved)


class Packer:
    """Turns examples into batches of one fixed length; turns that no longer fit are left out."""

    dialogue: Dialogue = VICUNA

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        self.length = length
        self._backend = tokenizer.backend_tokenizer
        self._pad = tokenizer.pad_token_id
        self._end = tokenizer.eos_token_id
        self._image = tokenizer.convert_tokens_to_ids(self.dialogue.image)
        self._before = self._encode(self.dialogue.opening + self.dialogue.before)
        self._first_visual_token = len(self._before)
        self._captions = caption_tokenizer(tokenizer)
        # Prompts and short answers repeat endlessly in a synthetic world, captions do not.
        self._cached = lru_cache(maxsize=1 << 16)(self._encode)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def pack(self, example: Example, spacing: float = 1.0) -> tuple[NDArray[np.int64], list[DialogueTurn]]:
        """Return the rows (ids, targets, positions, segments), int64 [4, S], and the turns that fitted in.

        Args:
            example: image and turns.
            spacing: distance between the positions of neighbouring visual tokens, before rounding down.
        """
        offsets = np.floor(spacing * np.arange(VISUAL_TOKENS)).astype(np.int64)
        return self._row(example, offsets, int(offsets[-1]) + 1)

    def _row(
        self, example: Example, offsets: NDArray[np.int64], extent: int
    ) -> tuple[NDArray[np.int64], list[DialogueTurn]]:
        """Do what `pack` does, with a visual token for each of `offsets`, its position counted from the
        first one's place, and the turns `extent` behind that.
        """
        first, dialogue = self._first_visual_token, self.dialogue
        prefix, after = first + len(offsets), first + extent
        row = np.empty((4, self.length), dtype=np.int64)
        row[0], row[1], row[2], row[3] = self._pad, NO_TARGET, 0, PADDING_SEGMENT
        row[0, :first], row[0, first:prefix], row[3, :prefix] = self._before, self._image, PREFIX_SEGMENT
        row[2, :first], row[2, first:prefix] = np.arange(first), first + offsets
        start, placed = prefix, []
        for turn in example.turns:
            question = self._cached(f"{dialogue.after}{turn.prompt}{dialogue.cue}")
            answer = [*self._cached(f"{dialogue.lead}{turn.answer}"), self._end]
            end = start + len(question) + len(answer)
            if end > self.length:
                continue
            placed.append(turn)
            row[0, start:end] = question + answer
            row[1, end - len(answer) - 1 : end - 1] = answer
            row[2, start:end] = np.arange(after, after + end - start)
            row[3, start:end] = len(placed)
            start = end
        return row, placed

    def batch(
        self, examples: Sequence[Example], spacings: Iterable[float] | None = None
    ) -> tuple[PackedBatch, list[list[DialogueTurn]]]:
        """Pack examples into one batch; also return the turns placed in each row. `spacings`: see `pack`."""
        spaced = zip(examples, spacings or [1.0] * len(examples), strict=True)
        packed = [self.pack(example, spacing) for example, spacing in spaced]
        return self._batch(examples, packed, np.stack([example.image for example in examples]))

    def _batch(
        self,
        examples: Sequence[Example],
        packed: Sequence[tuple[NDArray[np.int64], list[DialogueTurn]]],
        images: NDArray[np.uint8],
    ) -> tuple[PackedBatch, list[list[DialogueTurn]]]:
        rows, placed = zip(*packed, strict=True)
        captions = [
            next((turn.answer for turn in example.turns if turn.kind == CAPTION_KIND), "")
            for example in examples
        ]
        ids, targets, positions, segments = torch.from_numpy(np.stack(rows, axis=1)).unbind()
        batch = PackedBatch(
            images=torch.from_numpy(images),
            input_ids=ids,
            targets=targets,
            weights=_answer_weights(targets, segments),
            position_ids=positions,
            segments=segments.to(torch.int16),
            first_visual_token=self._first_visual_token,
            captions=self.caption_ids(captions),
            captioned=torch.tensor([bool(caption) for caption in captions]),
        )
        return batch, [*placed]

    def caption_ids(self, captions: list[str]) -> Tensor:
        """Return int64 [captions, 77]."""
        ids: Tensor = self._captions(
            captions, padding="max_length", max_length=CAPTION_LENGTH, truncation=True, return_tensors="pt"
        )["input_ids"]
        return ids


def _answer_weights(targets: Tensor, segments: Tensor) -> Tensor:
    """Weigh an answer of n tokens by sqrt(n) in all, so that captions do not drown one-word answers."""
    target = targets != NO_TARGET
    owner = torch.where(target, segments, 0)
    lengths = torch.zeros(len(owner), int(owner.max()) + 1).scatter_add_(1, owner, target.float())
    return torch.where(target, lengths.gather(1, owner).clamp(min=1).rsqrt(), 0.0)


def packed_loss(logits: Tensor, batch: PackedBatch) -> Tensor:
    """Return the weighted mean cross-entropy over the answers' tokens, a scalar."""
    losses = functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=NO_TARGET, reduction="none"
    )
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


def branch_mask(segments: Tensor, hidden: int = 0) -> Tensor:
    """Return who may attend to whom, bool [B, 1, S, S]: causal, within the prefix, from its column `hidden`
    on for the turns, and one's own turn.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == PREFIX_SEGMENT)[:, None, :]
    if hidden:
        prefix = prefix & (
            (torch.arange(length, device=segments.device) >= hidden) | ~(segments > 0)[..., None]
        )
    return ((own | prefix) & causal)[:, None]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the image processor's pixel values, float [B, 3, H, W], of uint8 images [B, H, W, 3]."""
    return (images.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]


def packed_logits(model: LlavaForConditionalGeneration, batch: PackedBatch, seen: Tensor) -> Tensor:
    """Return the stock model's logits, [B, S, vocabulary], on a packed batch.

    Args:
        model: a LLaVA whose projector takes one layer of the tower, without the class token.
        batch: the packed examples.
        seen: that layer's hidden states, [B, 1 + V, width].
    """
    return answer_logits(model, batch, model.model.multi_modal_projector(seen[:, 1:]))


def answer_logits(
    model: LlavaForConditionalGeneration, batch: PackedBatch, features: Tensor, hidden: int = 0
) -> Tensor:
    """Return the logits, [B, S, vocabulary], on a packed batch, for visual features [B, V, hidden]. No turn
    sees the first `hidden` columns.

    The visual tokens stand at the same place in every row, so their features are put there by slicing: no
    search for placeholders, hence no wait for the GPU.
    """
    embeddings = model.get_input_embeddings()(batch.input_ids)
    first, last = batch.first_visual_token, batch.first_visual_token + features.shape[1]
    embeddings = torch.cat(
        [embeddings[:, :first], features.to(embeddings.dtype), embeddings[:, last:]], dim=1
    )
    logits: Tensor = model(
        inputs_embeds=embeddings,
        attention_mask=branch_mask(batch.segments, hidden),
        position_ids=batch.position_ids,
        use_cache=False,
    ).logits
    return logits
