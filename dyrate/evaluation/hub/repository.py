"""A repository on the hub: its commit, its files, and how they come into the cache."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dyrate.evaluation.checkpoint import cached_hash
from dyrate.evaluation.hub.trouble import HubError, told

_ATTEMPTS = 5
_LONGEST_WAIT = 8  # seconds


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit."""

    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """Of what is stored apart from the repository itself, as all large files are."""


@dataclass(frozen=True)
class Split:
    """One split of one configuration of a data set."""

    config: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.config}/{self.name}" if self.config else self.name


@dataclass(frozen=True)
class Repository:
    """A model or data set; `revision` is a commit, today's main where there is none."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        what = "data set " if self.kind == "dataset" else "model "
        return f"{what}{self.name}" + (f" at {self.revision[:12]}" if self.revision else "")

    @property
    def page(self) -> str:
        """Where a person sees it."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def look(self) -> tuple[str, str | None]:
        """The commit that the revision is, and the licence; a `HubError` where there is none, or no way."""
        from huggingface_hub import HfApi

        info = self._ask(lambda: HfApi().repo_info(self.name, repo_type=self.kind, revision=self.revision))
        return str(info.sha), (info.card_data or {}).get("license")

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """All files of a commit, by path."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        asked: dict[str, Any] = {"recursive": True, "revision": commit, "repo_type": self.kind}
        tree = self._ask(lambda: [*HfApi().list_repo_tree(self.name, **asked)])
        return {
            one.path: RemoteFile(one.path, one.size, one.lfs.sha256 if one.lfs else None)
            for one in tree
            if isinstance(one, RepoFile)
        }

    def split(self, commit: str, split: Split) -> tuple[list[str], int | None]:
        """The parquet files of a split, and its number of rows where the data set's card says it."""
        from datasets import load_dataset_builder
        from datasets.exceptions import DataFilesNotFoundError

        where = f"{self}: split {split}"
        try:
            builder = self._ask(lambda: load_dataset_builder(self.name, split.config, revision=commit))
        except HubError as error:
            if isinstance(error.__cause__, ValueError | DataFilesNotFoundError):  # no such configuration
                raise HubError(where, "is not there", f"see {self.page}/tree/main") from error
            raise
        found: Mapping[str, Sequence[str]] = builder.config.data_files or {}
        if split.name not in found:
            known = ", ".join(map(str, found)) or "none"
            raise HubError(where, f"is not there; splits: {known}", f"see {self.page}/tree/main")
        paths = [str(one).partition(f"@{commit}/")[2] for one in found[split.name]]
        if strange := [path for path in paths if not path.endswith(".parquet")]:
            raise HubError(where, f"is no parquet: {strange[0]!r}", "pin a revision that is")
        splits: Mapping[str, Any] = builder.info.splits or {}
        return paths, splits[split.name].num_examples if split.name in splits else None

    def download(self, commit: str, file: RemoteFile) -> Path:
        """Bring a file into the cache, unless it is there; returns its path. What is cut off is taken up.

        Raises `HubError` for what does not come, and for other bytes than the hub announced.
        """
        from huggingface_hub import hf_hub_download

        for again in (False, True):
            asked = {"repo_type": self.kind, "revision": commit, "force_download": again}
            path = Path(self._ask(partial(hf_hub_download, self.name, file.path, **asked)))
            if file.sha256 in (None, cached_hash(path)):
                return path
        raise HubError(
            f"{self}: {file.path}", "came with other bytes than announced", "check disk and mirror"
        )

    def point_to(self, commit: str) -> None:
        """Let the cache answer with this commit when the revision is asked for and there is no network."""
        from huggingface_hub import snapshot_download

        asked: dict[str, Any] = {"repo_type": self.kind, "revision": self.revision}
        found = self._ask(lambda: snapshot_download(self.name, allow_patterns=["config.json"], **asked))
        if Path(found).name != commit:
            raise HubError(str(self), f"has moved on from {commit[:12]} in the meantime", "fetch it again")

    def cached(self, commit: str, path: str, size: int) -> Path:
        """A file in the cache; a `HubError` where it is not there, or of another size."""
        from huggingface_hub import constants, try_to_load_from_cache

        found = try_to_load_from_cache(self.name, path, revision=commit, repo_type=self.kind)
        where = f"{self}: {path} of {commit[:12]}"
        cure = "fetch it again (`dyrate fetch --help`), or set HF_HOME to where it is"
        if not isinstance(found, str) or not Path(found).exists():
            raise HubError(where, f"is not in the cache ({constants.HF_HUB_CACHE})", cure)
        if (bytes_ := Path(found).stat().st_size) != size:
            raise HubError(where, f"has {bytes_} bytes in the cache, not {size}", f"remove it, and {cure}")
        return Path(found)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask the hub, and again where it is busy; its client does that for downloads only."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

        patiently = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, HubError) and error.busy),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(max=_LONGEST_WAIT),
            reraise=True,
        )
        for attempt in patiently:
            with attempt, told(str(self), self.page):
                return question()
        raise AssertionError("the last attempt returns or raises")
