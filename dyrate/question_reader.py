"""Reads the question of a prompt, and encodes it with the text half of a CLIP model in a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyrate.clip import FOLDER, text_tower
from dyrate.errors import DyrateError


@dataclass(frozen=True, eq=False)
class QuestionReader:
    """What methods read questions with; `method(model, questions=QuestionReader.of(tokenizer, folder))`."""

    tokenizer: Any
    """The language model's."""
    encode: Callable[[list[str]], Tensor] | None = None
    """Questions -> FloatTensor [questions, width]."""

    @classmethod
    def of(cls, tokenizer: Any, checkpoint: str | Path | None = None) -> "QuestionReader":
        """Return the reader for a tokenizer, with the text encoder of a checkpoint's folder if it has one."""
        if checkpoint is None or not (Path(checkpoint) / FOLDER).is_dir():
            return cls(tokenizer)
        return cls(tokenizer, _TextEncoder(Path(checkpoint)))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def features(self, questions: Sequence[str]) -> Tensor:
        """Return FloatTensor [questions, width]; a `DyrateError` without a text encoder."""
        if self.encode is None:
            raise DyrateError(
                f"the method encodes questions, and the checkpoint has no text encoder in {FOLDER}/"
            )
        return self.encode(list(questions))


@dataclass(frozen=True)
class _TextEncoder:
    """A CLIP text model; texts longer than it takes are cut into parts, whose features are averaged."""

    checkpoint: Path

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return text_tower(self.checkpoint)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Return FloatTensor [texts, width]; a `DyrateError` for an encoder that cannot be loaded."""
        tokenizer, model = self._loaded
        longest = model.config.max_position_embeddings
        features = []
        for text in texts:
            parts = tokenizer(
                text,
                max_length=longest,
                truncation=True,
                return_overflowing_tokens=True,
                padding=True,
                return_tensors="pt",
            )
            parts.pop("overflow_to_sample_mapping", None)
            features.append(model(**parts).text_embeds.mean(dim=0))
        return torch.stack(features)
