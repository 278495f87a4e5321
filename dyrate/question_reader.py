"""Reads the question of a prompt, and takes it and the image to where a CLIP model has both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.clip_folder import FOLDER
from dyrate.errors import DyrateError


@dataclass(frozen=True, eq=False)
class QuestionReader:
    """What methods read questions with; `method(model, questions=QuestionReader.of(tokenizer, folder))`."""

    tokenizer: Any
    """The language model's."""
    encode: Callable[[list[str]], Tensor] | None = None
    """Questions -> FloatTensor [questions, D]."""
    project: Callable[[Tensor], Tensor] | None = None
    """States of the vision tower after its last norm [..., width] -> FloatTensor [..., D]."""

    @classmethod
    def of(cls, tokenizer: Any, checkpoint: str | Path | None = None) -> "QuestionReader":
        """Return the reader for a tokenizer, with the text encoder of a checkpoint's folder if it has one."""
        if checkpoint is None or not (Path(checkpoint) / FOLDER).is_dir():
            return cls(tokenizer)
        return cls(tokenizer, _TextEncoder(Path(checkpoint)), _Projection(Path(checkpoint)))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def features(self, questions: Sequence[str]) -> Tensor:
        """Return FloatTensor [questions, D]; a `DyrateError` without a text encoder."""
        if self.encode is None:
            raise DyrateError(
                f"the method encodes questions, and the checkpoint has no text encoder in {FOLDER}/"
            )
        return self.encode(list(questions))

    def beside_features(self, states: Tensor) -> Tensor:
        """Return states of the vision tower after its last norm where `features` are, FloatTensor [..., D].

        Raises `DyrateError` without a visual projection, and for a tower of another width.
        """
        if self.project is None:
            raise DyrateError(
                "the method compares questions with images, and the checkpoint has no visual projection in "
                f"{FOLDER}/"
            )
        return self.project(states)


@dataclass(frozen=True)
class _TextEncoder:
    """A CLIP text model; texts longer than it takes are cut into parts, whose features are averaged."""

    checkpoint: Path

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from dyrate.clip import text_tower  # its imports take a second, and few methods ask for it

        return text_tower(self.checkpoint)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Return FloatTensor [texts, D]; a `DyrateError` for an encoder that cannot be loaded."""
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


@dataclass(frozen=True)
class _Projection:
    """A CLIP model's visual projection, in float32."""

    checkpoint: Path

    @cached_property
    def _loaded(self) -> nn.Linear:
        from dyrate.clip import visual_projection

        with torch.inference_mode(False):  # else it could not be used outside of that mode again
            return visual_projection(self.checkpoint)

    @torch.no_grad()
    def __call__(self, states: Tensor) -> Tensor:
        """Return states [..., width] -> [..., D]."""
        width = self._loaded.in_features
        if states.shape[-1] != width:
            raise DyrateError(
                f"{self.checkpoint / FOLDER}: is half of a CLIP whose vision tower is {width} wide, and the "
                f"model's is {states.shape[-1]}"
            )
        found: Tensor = self._loaded.to(states.device)(states.float())
        return found
