"""A study's models: a checkpoint, a trained connector, or a system behind one of lmms-eval's adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dyrate.evaluation.harness_adapters import AdapterOptions, AdapterSpec
from dyrate.evaluation.job import PixelBounds
from dyrate.evaluation.placement import Fit
from dyrate.study.content import content
from dyrate.typed import NOT_NULL, DistinctNames, OrAbsent, Text

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]

_OF_ADAPTERS = frozenset(AdapterOptions.model_fields)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Model(AdapterOptions):
    """A checkpoint under the name that the tables print, or a system that one of lmms-eval's adapters answers
    for: that is evaluated once, as it is, whatever the study's methods and decodings.
    """

    name: Name
    path: Text = ""
    """a folder or a hub id; `connector` in its place names the folder of a trained connector, which knows its
    checkpoint"""
    adapter: OrAbsent[Text] = None
    """in its place, the adapter's name; only this has `arguments` and what else belongs to an adapter"""
    chat_template: OrAbsent[Text] = None
    """of a checkpoint that has none of its own: a .jinja file, or vicuna"""
    pixels: OrAbsent[PixelBounds] = None
    """of an image, the least and the most, where a checkpoint's images keep their size within bounds: Qwen's;
    lmms-eval's adapters have [200704, 1605632]"""
    device_map: OrAbsent[Literal["auto"]] = None
    """auto: its layers over all GPUs that a job sees, where no single one has room for the model"""
    bits: OrAbsent[Literal[8, 4]] = None
    """of each weight of the language model's layers: another model than the one with all its bits"""
    published: Annotated[DistinctNames, BeforeValidator(_listed), NOT_NULL] = ()
    """the model of the paper's tables that it is set beside; of an adapter's system, or of a model that is
    measured against another, the row of Table I, or several"""
    against: OrAbsent[Name] = None
    """the model of the study whose unpruned answers its own are compared with, and of whose visual tokens its
    budgets are shares (default itself): of a compressor, the same model without compression"""

    @model_validator(mode="after")
    def _check_either(self) -> "Model":
        if bool(self.path) == (self.adapter is not None):
            raise ValueError(f"{self.name}: exactly one of path and adapter must be given")
        given = [key for key in _OF_ADAPTERS if key in self.model_fields_set and key != "revision"]
        if self.adapter is None and given:
            raise ValueError(f"{self.name}: {given[0]}: belongs to an adapter, and there is none")
        given = [key for key in ("chat_template", "pixels") if getattr(self, key) is not None]
        if self.adapter is not None and given:
            raise ValueError(f"{self.name}: {given[0]}: is for checkpoints; an adapter makes prompts itself")
        for key in self.fit if self.adapter is not None else ():
            raise ValueError(f"{self.name}: {key}: is for checkpoints; an adapter's stand in its arguments")
        return self

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def system(self) -> AdapterSpec | None:
        """The adapter and what it is given; None for a checkpoint."""
        options = self.model_dump(include={*_OF_ADAPTERS}, exclude_none=True)
        return None if self.adapter is None else AdapterSpec.of({"name": self.adapter, **options})

    @property
    def checkpoint(self) -> str:
        """The folder or hub id; of an adapter's system what its arguments call `pretrained`, if anything."""
        return self.path or str(self.arguments.get("pretrained", ""))

    @model_validator(mode="before")
    @classmethod
    def _path_of_connector(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "connector" in values and "path" not in values:
            return {("path" if key == "connector" else key): value for key, value in values.items()}
        return values

    @property
    def files(self) -> tuple[str, ...]:
        """Weights and settings of a local checkpoint, as paths; none for a hub id."""
        if not self.checkpoint:
            return ()
        folder = Path(self.checkpoint)
        endings = ("safetensors", "json", "jinja")
        return tuple(sorted(str(path) for ending in endings for path in folder.glob(f"*.{ending}")))

    @property
    def content(self) -> str:
        """A hash of a local checkpoint's files (times do not matter), or the hub id and its pinned commit."""
        pinned = f"{self.checkpoint}@{self.revision}" if self.revision else self.checkpoint
        found = content(self.files) if self.files else pinned
        template = self.chat_template if self.chat_template and Path(self.chat_template).is_file() else None
        return f"{found} {content([template])}" if template else found

    @property
    def asked(self) -> dict[str, Any]:
        """What jobs are told of a checkpoint: which one, of which commit, asked how."""
        return {"model": self.path, **self.model_dump(include={"revision", "chat_template", "pixels"})}

    @property
    def fit(self) -> dict[str, Any]:
        """How it is loaded where no single device has room for it: the keys of that which are given."""
        return Fit(self.device_map, self.bits).told

    @property
    def on_hub(self) -> bool:
        """Whether it is fetched from the hub."""
        return bool(self.checkpoint) and not self.missing and not Path(self.checkpoint).expanduser().is_dir()

    @property
    def missing(self) -> bool:
        """Whether the path can only mean a folder, and there is none: `owner/name` may be a hub id."""
        if not self.checkpoint:
            return False
        path = Path(self.checkpoint)
        local = self.checkpoint.startswith((".", "~", "/")) or self.checkpoint.count("/") > 1
        return not path.is_dir() and (local or Path(path.parts[0]).is_dir())
