"""Processors without their part for videos.

It needs torchvision, which does not go with every build of torch; and videos are refused anyway.
"""

from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

_VIDEOS = "video_processor"


def processor_class(config: Any) -> Any:
    """Return what loads the processor of a checkpoint with this configuration: transformers' AutoProcessor,
    or, where that would want a part for videos, the class itself without it.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    return AutoProcessor if kind is None or _VIDEOS not in kind.get_attributes() else videoless(kind)


def videoless(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a class of processors that has no part for videos, and the same name."""
    parts = [name for name in kind.get_attributes() if name != _VIDEOS]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: parts)})
