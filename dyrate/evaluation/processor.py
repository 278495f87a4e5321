"""What turns texts and images into a model's inputs: the checkpoint's processor."""

from pathlib import Path
from typing import Any

from dyrate.evaluation.checkpoint_files import check_config, check_processor_files, complaints
from dyrate.evaluation.soundness import check_processor

_VIDEOS = "video_processor"


def load_processor(folder: Path) -> Any:
    """The checkpoint's processor: PIL pixels on every machine, padding on the left for batched generation.

    Raises `DyrateError` for files that are absent or damaged, and for a processor of another model.
    """
    config = check_config(folder)
    check_processor_files(folder)
    with complaints(f"--model {folder}: its processor or tokenizer"):
        processor = _class_of(config).from_pretrained(folder, backend="pil", trust_remote_code=False)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
    check_processor(folder, processor, config)
    return processor


def _class_of(config: Any) -> Any:
    """The class of a model's processor, without its part for videos: that needs torchvision, which neither
    goes with every build of torch nor has anything to do where videos are refused.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or _VIDEOS not in kind.get_attributes():
        return AutoProcessor

    def parts(cls: type) -> list[str]:
        return [part for part in kind.get_attributes() if part != _VIDEOS]

    return type(kind.__name__, (kind,), {"get_attributes": classmethod(parts)})
