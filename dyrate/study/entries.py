"""What a study lists beside models: predictors, methods, and the jobs that they make."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dyrate import registry
from dyrate.evaluation.checkpoint import content_hash
from dyrate.evaluation.decoding import decoding_slug
from dyrate.study.config import StudyError
from dyrate.study.content import content
from dyrate.study.model import Model

NONE = "none"
PREDICTOR_FILES = ("predictor.json", "predictor.safetensors")


@dataclass(frozen=True)
class StudyPredictor:
    """One `predictors:` entry on one model: its recipe, and where the trained one stands."""

    study: str
    model: Model
    name: str
    recipe: Mapping[str, Any]
    prepared: str
    """The folder of a trained one, which the study uses if it is there."""
    data: str | None = None
    retrain: bool = False
    origin: str | None = None
    """What the config says of the recipe, if anything."""

    @cached_property
    def shipped(self) -> bool:
        """Whether a trained one is used: there is one, and the study does not ask to train it again."""
        return not self.retrain and Path(self.prepared).is_dir()

    @property
    def folder(self) -> str:
        """Where its two files stand, or will."""
        trained = f"results/{self.study}/predictors/{self.model.name}/{self.name}"
        return self.prepared if self.shipped else trained

    @property
    def files(self) -> tuple[str, ...]:
        """Its record and its weights, as paths."""
        return tuple(f"{self.folder}/{name}" for name in PREDICTOR_FILES)

    @property
    def content(self) -> str | None:
        """A hash of a shipped predictor's files; None for one that a rule makes."""
        return content(self.files) if self.shipped else None

    @property
    def data_content(self) -> str | None:
        """A hash of the training data where it is there, else its path; None for the testbed's own."""
        return content([self.data]) if self.data and Path(self.data).is_file() else self.data

    def check_shipped(self) -> None:
        """Refuse a shipped predictor of another recipe than the study's, or of other weights.

        Training another one in its place would take minutes that nobody asked for, and using it would print
        figures under a recipe that is not theirs. What the study leaves out is not compared.
        """
        if not self.shipped:
            return
        path, again = Path(self.files[0]), "train it again with --config retrain=1"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            trained_with = {key: record["recipe"].get(key) for key in self.recipe}
            weights = record["model"]["weights"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise StudyError(
                f"predictors: {self.name}: {path} does not record its recipe and model; {again}"
            ) from None
        for key, value in self.recipe.items():
            if trained_with[key] != value:
                raise StudyError(
                    f"predictors: {self.name}: {self.folder} was trained with {key}={trained_with[key]!r}, "
                    f"but the study says {value!r}; {again}, or give the recipe another name"
                )
        if self.model.files and weights != weights_of(self.model.path, self.model.content):
            raise StudyError(
                f"predictors: {self.name}: {self.folder} was trained on other weights than those in "
                f"{self.model.path}; {again}"
            )


@dataclass(frozen=True)
class Method:
    """One `methods:` entry: the method's own spec, and what the study says about it."""

    spec: Mapping[str, Any]
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    decodings: tuple[Mapping[str, Any], ...]
    published: Mapping[str, str]
    group: str

    @property
    def name(self) -> str:
        """The name, or path/to/file.py:Class, as the config writes it."""
        return str(self.spec["name"])

    @property
    def predictor(self) -> str | None:
        """The name of the `predictors:` entry that it runs with."""
        return self.spec.get("predictor")

    @cached_property
    def slug(self) -> str:
        """The method's folder name: its name and hyperparameters, a predictor by its name."""
        return registry.slug(self.spec)


@dataclass(frozen=True)
class StudyJob:
    """One evaluation: a model with a method under a decoding strategy, on the method's benchmarks."""

    study: str
    model: Model
    method: Method
    decoding: Mapping[str, Any]
    predictor: StudyPredictor | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Model, method and decoding strategy, as the job's path and the rule's wildcards name them."""
        return self.model.name, self.method.slug, decoding_slug(self.decoding)

    @property
    def stem(self) -> str:
        """Path of the job's files, without suffix."""
        return "/".join(("results", self.study, *self.key))

    @property
    def result(self) -> str:
        """Path of the result JSON."""
        return f"{self.stem}.json"

    def predictor_files(self, shipped: bool) -> tuple[str, ...]:
        """The files of the predictor that it runs with, if that one is shipped, or if it is not."""
        return self.predictor.files if self.predictor and self.predictor.shipped == shipped else ()

    @property
    def predictor_content(self) -> str | None:
        """A hash of the shipped predictor that it runs with, if it does."""
        return self.predictor.content if self.predictor else None

    @property
    def spec(self) -> dict[str, Any]:
        """The method as it is loaded: a predictor by its folder."""
        return {**self.method.spec, **({"predictor": self.predictor.folder} if self.predictor else {})}


@cache
def weights_of(folder: str, content: str) -> str:
    """The hash of a local checkpoint that results carry; `content` says whether it is still the same."""
    return content_hash(Path(folder))
