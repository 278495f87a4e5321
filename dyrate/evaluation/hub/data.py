"""A benchmark's rows from the hub's cache, as lmms-eval's task would have them, read without asking the hub.

lmms-eval would fetch all splits of the data set, and asks for a token whether or not the hub does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import Benchmark
from dyrate.evaluation.hub.fetch import splits, wanted_data
from dyrate.evaluation.hub.record import Fetched, content_hash, paths, read


@dataclass(frozen=True)
class HubData:
    """What was fetched for a benchmark."""

    benchmark: Benchmark
    config: Mapping[str, Any]
    fetched: Fetched

    @classmethod
    def of(cls, benchmark: Benchmark, config: Mapping[str, Any], records: Path | None) -> "HubData":
        """Read the record of `dyrate fetch` in that folder, or fetch now where none is named.

        Raises `DyrateError` for a record that is not there, of another data set, or whose files are not.
        """
        if records is None:
            return cls(benchmark, config, wanted_data(benchmark, config).fetch())
        path = records / f"{benchmark.name}.json"
        if not path.is_file():
            raise DyrateError(
                f"{path}: no such file; `dyrate fetch --benchmark {benchmark.name} --output {path}` makes it"
            )
        fetched = read(path)
        asked = [(split.config, split.name) for split in splits(benchmark, config)]
        found = [(part.get("config"), part.get("split")) for part in fetched["parts"]]
        if (fetched["name"], found) != (config["dataset_path"], asked):
            raise DyrateError(
                f"{path}: is of {fetched['name']} {found}, but the task reads {config['dataset_path']} "
                f"{asked}; remove it and fetch again"
            )
        return cls(benchmark, config, fetched)

    @property
    def hash(self) -> str:
        """sha256 of its files."""
        return content_hash(self.fetched)

    @property
    def override(self) -> dict[str, Any]:
        """What of the task's config makes lmms-eval read these files and nothing else."""
        files = {self.config["test_split"]: [str(path) for path in paths(self.fetched)]}
        return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}}

    @property
    def process(self) -> Callable[[Any], Any] | None:
        """What the task does with the rows: its own, but for the join of images, which would ask the hub."""
        if len(self.fetched["parts"]) > 1:
            return self._join
        found: Callable[[Any], Any] | None = self.config.get("process_docs")
        return found

    def _join(self, rows: Any) -> Any:
        """Set each row's image beside it, as it is stored; lmms-eval's join stores it anew, as PNG."""
        from datasets import concatenate_datasets, load_dataset

        files = [str(path) for path in paths(self.fetched, 1)]
        images = load_dataset("parquet", data_files={"images": files})["images"]
        places = {key: place for place, key in enumerate(images["id"])}
        if missing := [key for key in rows["imageId"] if key not in places]:
            raise DyrateError(f"{self.fetched['name']}: there is no image {missing[0]!r}, which a row names")
        beside = images.select([places[key] for key in rows["imageId"]]).select_columns(["image"])
        return concatenate_datasets([rows, beside], axis=1)
