"""Reads the question of a prompt, and encodes it with the text half of a CLIP model in a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyrate.errors import DyrateError

FOLDER = "clip"
"""Of a checkpoint: the text encoder, its projection and its tokenizer, in transformers' own layout."""


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
        folder = Path(checkpoint or "") / FOLDER
        if checkpoint is None or not folder.is_dir():
            return cls(tokenizer)
        return cls(tokenizer, _TextEncoder(folder))

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

    folder: Path

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            model, told = CLIPTextModelWithProjection.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:
            cause = " ".join(str(error).split())
            raise DyrateError(f"{self.folder}: the text encoder cannot be loaded: {cause:.300}") from error
        if told["missing_keys"] or told["mismatched_keys"]:
            wrong = sorted(map(str, {*told["missing_keys"], *told["mismatched_keys"]}))
            raise DyrateError(
                f"{self.folder}: the text encoder has no fitting weights for {', '.join(wrong):.300}"
            )
        return tokenizer, model.eval()

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
