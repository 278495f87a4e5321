"""What turns texts and images into a model's inputs: the checkpoint's processor."""

from pathlib import Path
from typing import Any

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import check_config, check_processor_files, complaints
from dyrate.evaluation.soundness import check_processor
from dyrate.videoless import processor_class


def load_processor(folder: Path) -> Any:
    """The checkpoint's processor: PIL pixels on every machine, padding on the left for batched generation.

    Raises `DyrateError` for files that are absent or damaged, and for a processor of another model.
    """
    config = check_config(folder)
    check_processor_files(folder)
    with complaints(f"--model {folder}: its processor or tokenizer"):
        processor = processor_class(config).from_pretrained(folder, backend="pil", trust_remote_code=False)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
    check_processor(folder, processor, config)
    return processor


def bound_images(processor: Any, pixels: tuple[int, int], folder: Path) -> None:
    """Let images have that many pixels at least and at most, in the place of the checkpoint's own bounds.

    Raises `DyrateError` for a processor whose images have a size of their own, or tiles.
    """
    images = processor.image_processor
    # Qwen's processors say by these names how much area an image has; others, how long its edges are.
    if not {"min_pixels", "max_pixels"} <= {*getattr(images.valid_kwargs, "__annotations__", {})}:
        raise DyrateError(
            f"--pixels {' '.join(map(str, pixels))}: is for checkpoints whose images keep their size within "
            f"bounds, as Qwen's do; those of {folder} do not"
        )
    least, most = pixels
    images.size = type(images.size)(shortest_edge=least, longest_edge=most)
