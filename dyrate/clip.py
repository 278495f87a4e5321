"""CLIP's other half, which a checkpoint may carry in `clip/`: text tower, projections, temperature.

In transformers' own layout, but for the vision tower: that is the checkpoint's own. A whole CLIP model will
do as well, whose vision tower is then left out, and so will a text tower with its projection where no more
is asked for.
"""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
)

from dyrate.clip_folder import FOLDER
from dyrate.errors import DyrateError

Model = TypeVar("Model", bound=PreTrainedModel)


class _TextTower(CLIPTextModelWithProjection):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected = (r"^vision_model\.", r"^visual_projection\.", "logit_scale")


class _VisualProjection(CLIPPreTrainedModel):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected = (r"^(?!visual_projection\.)",)

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        width = config.vision_config.hidden_size
        self.visual_projection = nn.Linear(width, config.projection_dim, bias=False)
        self.post_init()


class _OtherHalf(CLIPModel):  # type: ignore[misc]
    _keys_to_ignore_on_load_missing = (r"^vision_model\.",)


def text_tower(checkpoint: Path) -> tuple[Any, CLIPTextModelWithProjection]:
    """Return the tokenizer and the text tower in a checkpoint; a `DyrateError` if they cannot be loaded."""
    return _tokenizer(checkpoint), _loaded(_TextTower, checkpoint).float()


def visual_projection(checkpoint: Path) -> nn.Linear:
    """Return what takes states of the vision tower, after its last norm, to where texts are, in float32.

    Raises `DyrateError` if it cannot be loaded.
    """
    loaded = _loaded(_VisualProjection, checkpoint)
    projection: nn.Linear = loaded.visual_projection.float()
    return projection


def clip_model(checkpoint: Path, tower: nn.Module) -> tuple[Any, CLIPModel]:
    """Return the tokenizer and the whole CLIP model of a checkpoint.

    Args:
        checkpoint: folder of a vision-language model with `clip/` in it.
        tower: that model's vision tower, which becomes the CLIP model's: it is not copied.

    Raises:
        DyrateError: if CLIP's other half cannot be loaded, or belongs to a vision tower of another size.
    """
    clip = _loaded(_OtherHalf, checkpoint)
    told, own = clip.config.vision_config, tower.config
    for name in ("hidden_size", "num_hidden_layers", "image_size", "patch_size"):
        if getattr(told, name) != getattr(own, name):
            raise DyrateError(
                f"{checkpoint / FOLDER}: is half of a CLIP whose vision tower has {name} "
                f"{getattr(told, name)}, and the checkpoint's has {getattr(own, name)}"
            )
    weight = next(tower.parameters())
    clip.vision_model = tower
    return _tokenizer(checkpoint), clip.to(device=weight.device, dtype=weight.dtype)


def _tokenizer(checkpoint: Path) -> Any:
    folder = checkpoint / FOLDER
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise _unloadable(folder, error) from error


def _loaded(kind: type[Model], checkpoint: Path) -> Model:
    folder = checkpoint / FOLDER
    try:
        model, told = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise _unloadable(folder, error) from error
    if wrong := sorted(map(str, {*told["missing_keys"], *told["mismatched_keys"]})):
        raise DyrateError(f"{folder}: CLIP's other half has no fitting weights for {', '.join(wrong):.300}")
    loaded: Model = model.eval()
    return loaded


def _unloadable(folder: Path, error: Exception) -> DyrateError:
    return DyrateError(f"{folder}: the text encoder cannot be loaded: {' '.join(str(error).split()):.300}")
