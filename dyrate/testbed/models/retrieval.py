"""Finding pictures by captions and captions by pictures, with the CLIP model in a testbed checkpoint."""

from itertools import count, islice
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from dyrate.clip import clip_model
from dyrate.testbed.models.contrast import Retrieval, similarities
from dyrate.testbed.world.examples import CAPTION_KIND, validation_example

BATCH = 64


@torch.inference_mode()
def retrieve(checkpoint: Path, pairs: int = 256, seed: int = 0) -> Retrieval:
    """Find the first `pairs` validation scenes that have a caption, without any training on the task.

    Raises:
        DyrateError: where the checkpoint's `clip/` cannot be loaded.
    """
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    images = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    tokenizer, clip = clip_model(checkpoint, model.model.vision_tower)
    scenes = (validation_example(seed, index) for index in count())
    captioned = (
        (scene.image, turn.answer) for scene in scenes for turn in scene.turns if turn.kind == CAPTION_KIND
    )
    pictures, captions = zip(*islice(captioned, pairs), strict=True)
    ids = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt").input_ids
    pooled = [
        clip.vision_model(
            **images(
                [Image.fromarray(image) for image in pictures[first : first + BATCH]], return_tensors="pt"
            )
        ).pooler_output
        for first in range(0, pairs, BATCH)
    ]
    return Retrieval.of(similarities(clip, torch.cat(pooled), ids))
