"""lmms-eval's adapters of other systems: which there are, what each is given, and whose code may run.

Imports nothing slow until an adapter is looked up.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from dyrate.errors import DyrateError
from dyrate.typed import OrAbsent, Record, Text, meant

_COMMIT = re.compile("[0-9a-f]{40}")
_OWN = "dyrate"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_ELSEWHERE = ("revision", "trust_remote_code")
CODE = (
    "Python code of its own, which would run here with all your rights and may be another tomorrow. It does "
    "only if the entry says `trust_remote_code: true` and names the commit that you have read: `revision: "
    "<40 hexadecimal digits>`"
)
"""Why a checkpoint's code does not run, after "... brings" or the like."""


def a_commit(revision: str) -> str:
    """Refuse a revision that may be another one tomorrow."""
    if not _COMMIT.fullmatch(revision):
        raise ValueError(f"{revision!r:.80} is no commit of 40 hexadecimal digits; branches and tags move")
    return revision


Commit = Annotated[str, AfterValidator(a_commit)]


class AdapterOptions(Record):
    """What an entry says beside the name of one of lmms-eval's adapters."""

    arguments: dict[str, Any] = Field(default={})
    """the adapter's own, as lmms-eval's --model_args has them; `device`, `dtype` and a `batch_size` of 1 are
    added where the adapter takes them and nothing else is said"""
    revision: OrAbsent[str] = None
    """commit of `pretrained` on the hub, which is then downloaded as a whole and given as a folder"""
    trust_remote_code: bool = False
    """lets the checkpoint's Python code run; with `revision` only"""
    cut_prompt: bool = False
    """the answers of this adapter begin with the prompt, which is cut off before they are scored"""

    @model_validator(mode="after")
    def _check_code(self) -> "AdapterOptions":
        for key in _ELSEWHERE:
            if key in self.arguments:
                raise ValueError(f"arguments.{key}: {key} stands beside `arguments`, not in it")
        if self.revision is not None:
            try:
                a_commit(self.revision)
            except ValueError as error:
                raise ValueError(f"revision: {error}") from None
        if self.trust_remote_code and self.revision is None:
            raise ValueError(f"trust_remote_code: true needs a `revision`. A checkpoint may bring {CODE}")
        return self


class AdapterSpec(AdapterOptions):
    """One of lmms-eval's adapters and what it is given."""

    name: Text
    """as lmms-eval's --model"""

    @property
    def options(self) -> dict[str, Any]:
        """All but the name, as `dyrate evaluate --adapter` takes it: what is so by default is left out."""
        return self.model_dump(exclude={"name"}, exclude_defaults=True)

    @property
    def where(self) -> str:
        """How complaints begin."""
        return f"adapter {self.name}"


@dataclass(frozen=True)
class Adapter:
    """An adapter's class, and what its constructor takes."""

    spec: AdapterSpec
    kind: Any
    parameters: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, spec: AdapterSpec) -> "Adapter":
        """Look an adapter up. Raises `DyrateError`, before anything is loaded, for an unknown one, one that
        cannot be imported here, one that is asked by chat messages only, and unknown arguments.
        """
        kind = _class(spec)
        parameters, is_open = _parameters(kind)
        for name in spec.arguments:
            if name not in parameters and not is_open:
                raise DyrateError(f"{spec.where} has no argument {name!r}{meant(name, parameters)}")
        return cls(spec, kind, parameters)

    @property
    def path(self) -> str:
        """Where the class stands."""
        return f"{self.kind.__module__}.{self.kind.__qualname__}"

    @property
    def source(self) -> Path:
        """The file of the class."""
        return Path(inspect.getfile(self.kind))

    @property
    def pretrained(self) -> str | None:
        """The checkpoint, a folder or a hub id, as given or by default; None where there is none."""
        default = self.parameters.get("pretrained")
        value = self.spec.arguments.get("pretrained", default.default if default else None)
        return value if isinstance(value, str) and value.strip() else None

    def keywords(self, device: str, dtype: str, folder: Path | None) -> dict[str, Any]:
        """What the constructor is called with; `folder` stands for a pinned checkpoint.

        Some adapters let remote code run unless told otherwise: they are told.
        """
        usual = {"device": device, "batch_size": 1, "trust_remote_code": self.spec.trust_remote_code}
        if isinstance(getattr(self.parameters.get("dtype"), "default", None), str):
            usual["dtype"] = dtype
        usual = {name: value for name, value in usual.items() if name in self.parameters}
        pinned = {} if folder is None else {"pretrained": str(folder)}
        return {**usual, **self.spec.arguments, **pinned}

    def pinned(self) -> Path | None:
        """The folder of the checkpoint's pinned commit, downloaded if need be; None where none is pinned.

        A folder pins weights, settings and code alike, also for an adapter that knows no revision. Pickled
        files are left out where there are safetensors. A folder of the user's own must have some: its weights
        are known by their bytes, and pickled ones are not read for it.
        """
        name, where = self.pretrained, f"{self.spec.where}: revision {self.spec.revision}"
        own = name is not None and Path(name).expanduser().is_dir()
        if self.spec.revision is None:
            if own and not any(Path(name or "").expanduser().glob("*.safetensors")):
                raise DyrateError(
                    f"{self.spec.where}: no *.safetensors in {name}: save it so, or pin a commit on the hub"
                )
            return None
        if name is None or own:
            raise DyrateError(f"{where}: `pretrained` is {name!r}, but only what is on the hub has revisions")
        from huggingface_hub import snapshot_download

        from dyrate.evaluation.checkpoint_files import complaints

        with complaints(f"{where} of {name}"):
            folder = Path(snapshot_download(name, revision=self.spec.revision, ignore_patterns=[*PICKLED]))
            if not any(folder.glob("*.safetensors")):
                folder = Path(snapshot_download(name, revision=self.spec.revision))
        return folder

    def folder(self) -> Path | None:
        """Where the loaded checkpoint lies: its folder, or what the hub's cache has of it, if either."""
        if self.pretrained is None:
            return None
        if (folder := Path(self.pretrained).expanduser()).is_dir():
            return folder
        from huggingface_hub import try_to_load_from_cache

        with contextlib.suppress(ValueError):  # it is no hub id
            found = try_to_load_from_cache(self.pretrained, "config.json")
            return Path(found).parent if isinstance(found, str) else None
        return None


def _class(spec: AdapterSpec) -> Any:
    with contextlib.redirect_stdout(sys.stderr):  # where lmms-eval sends its log when it is first imported
        from lmms_eval import models

        from dyrate.evaluation.checkpoint_files import complaints

        known = models.list_available_models(include_aliases=True)
        if spec.name not in known:
            others = [name for name in known if name != _OWN]
            raise DyrateError(f"{spec.where}: lmms-eval has none of that name{meant(spec.name, others)}")
        manifest = models.get_model_manifest(spec.name)
        if manifest.model_id == _OWN:
            raise DyrateError(f"{spec.where}: is this package's own: give the model by its path instead")
        if manifest.simple_class_path is None:
            raise DyrateError(
                f"{spec.where}: takes chat messages only; the benchmarks' tasks here ask by text and images "
                "(lmms-eval's simple models)"
            )
        with complaints(f"{spec.where}: cannot be imported here"):
            return models.MODEL_REGISTRY_V2.get_model_class(spec.name, force_simple=True)


def _parameters(kind: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a constructor, and of those that it hands others to; whether any name goes.

    Most adapters take any keyword and then assert that there is none.
    """
    found: dict[str, inspect.Parameter] = {}
    is_open = False
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = [*inspect.signature(base.__init__).parameters.values()][1:]
        any_keyword = any(one.kind is one.VAR_KEYWORD for one in parameters)
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                found.setdefault(one.name, one)
        if not any_keyword:
            break
        is_open = not _asserts_none(base.__init__)
        if not is_open:
            break
    return found, is_open


def _asserts_none(constructor: Any) -> bool:
    with contextlib.suppress(OSError):
        return (
            re.search(r"assert (not )?kwargs|Unexpected kwargs", inspect.getsource(constructor)) is not None
        )
    return False
