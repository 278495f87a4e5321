"""CLIP's loss between pictures and their captions, and what it is good for: finding one by the other."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

LARGEST_SCALE = 4.6052  # ln 100, CLIP's own bound of the temperature's inverse


def similarities(clip: CLIPModel, pooled: Tensor, captions: Tensor) -> Tensor:
    """Return the scaled cosines, float32 [captions, pictures].

    Args:
        clip: whose text tower, projections and temperature are taken.
        pooled: class tokens after the vision tower's last norm, [pictures, width].
        captions: int64 [captions, length], each ended and padded by the end token.
    """
    pictures = functional.normalize(clip.visual_projection(pooled).float(), dim=-1)
    texts = functional.normalize(
        clip.text_projection(clip.text_model(captions).pooler_output).float(), dim=-1
    )
    scores: Tensor = texts @ pictures.T * clip.logit_scale.float().exp()
    return scores


def contrastive_loss(scores: Tensor, captioned: Tensor) -> Tensor:
    """Return the symmetric cross-entropy, a scalar, of the pairs (i, i) among those that are captioned.

    Args:
        scores: [B, B], captions by pictures.
        captioned: bool [B], whether a picture has a caption.
    """
    scores = scores.masked_fill(~(captioned[:, None] & captioned), torch.finfo(scores.dtype).min)
    pairs = torch.arange(len(scores), device=scores.device)
    losses = sum(functional.cross_entropy(s, pairs, reduction="none") for s in (scores, scores.T))
    return (losses * captioned).sum() / (2 * captioned.sum().clamp(min=1))


@dataclass(frozen=True)
class Retrieval:
    """How many of `pairs` captions find their picture first among all, and pictures their caption."""

    pairs: int
    pictures_found: int
    captions_found: int

    @classmethod
    def of(cls, scores: Tensor) -> "Retrieval":
        """Count in scores [pairs, pairs], captions by pictures; ties count as misses."""
        own = scores.diagonal()
        better = scores >= own[:, None]
        other = scores >= own[None, :]
        return cls(len(scores), int((better.sum(1) == 1).sum()), int((other.sum(0) == 1).sum()))
