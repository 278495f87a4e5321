"""Processors that read videos, too, where torchvision is not installed, which only that needs."""

from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

_VIDEOS = "video_processor"


def processor_class(config: Any) -> Any:
    """Return what loads the processor of a checkpoint with this configuration: transformers' AutoProcessor,
    or, where that would ask for torchvision, the same class without what reads videos.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or is_torchvision_available() or _VIDEOS not in kind.get_attributes():
        return AutoProcessor
    return videoless(kind)


def videoless(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a class of processors that has no part for videos, and the same name."""
    parts = [name for name in kind.get_attributes() if name != _VIDEOS]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: parts)})
