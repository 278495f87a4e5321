"""What `dyrate look` is asked, and which predictor DyRate gets where none is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, model_validator

from dyrate.errors import DyrateError
from dyrate.evaluation.job import (
    Bits,
    ChatTemplate,
    Device,
    DeviceMap,
    Dtype,
    Pixels,
    Revision,
    Spec,
    Threads,
)
from dyrate.jobs import Job, option
from dyrate.registry import class_of, schema
from dyrate.typed import File, Positive, Text

STUDY = Path("config/testbed.yaml")
"""Whose predictors the testbed's models come with."""


class Look(Job):
    """Which image to look at, and what to ask."""

    command_name = "look"
    one_of = ("image", "sample")

    image: Annotated[
        File | None, option("what", "IMAGE", "a photo: any file that Pillow reads", by_place=True)
    ] = None
    sample: Annotated[
        str | None,
        option(
            "what",
            "BENCHMARK:N",
            "a scene that the testbed's models know, with its question: row N of a testbed benchmark, such "
            "as nocaps:3 (without a value: nocaps:0)",
            alone="nocaps:0",
        ),
    ] = None
    question: Annotated[Text | None, option("what", "TEXT")] = None
    """what to ask; a sample has a question of its own"""
    method: Annotated[
        tuple[Spec, ...],
        Strict(False),
        Field(min_length=1),
        option("what", "SPEC", "names, or JSON with hyperparameters: shown side by side", adds=True),
    ] = ({"name": "dyrate"},)
    predictor: Annotated[File | None, option("what", "DIR")] = None
    """DyRate's (default: for a model of the testbed, that of its first DyRate in config/testbed.yaml)"""
    model: Annotated[str, option("what", "M")] = "models/testbed-s"
    """a checkpoint's folder or hub id"""
    new_tokens: Annotated[Positive | None, option("how", "N")] = None
    """longest answer (default: 64; of a sample, what its benchmark allows)"""
    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: Threads = None
    revision: Revision = None
    chat_template: ChatTemplate = None
    pixels: Pixels = None
    device_map: DeviceMap = None
    bits: Bits = None
    output: Annotated[File | None, option("result", "HTML")] = None
    """page to write: the image with the visual tokens that live at each word"""

    @model_validator(mode="after")
    def _check_question(self) -> "Look":
        if self.image is not None and self.question is None:
            raise ValueError(f"--question: is missing: what shall be asked about {self.image}?")
        if self.output is not None and self.output.suffix not in (".html", ".htm"):
            raise ValueError(f"--output: {self.output}: name an .html file, such as look.html")
        return self

    def methods(self) -> list[Mapping[str, Any]]:
        """The methods' specs, those that run with a predictor with one.

        Raises `DyrateError` for an unknown method, and for a predictor that none of them runs with.
        """
        found = [_with_predictor(spec, self.predictor, self.model) for spec in self.method]
        if self.predictor is not None and found == [*self.method]:
            names = ", ".join(str(spec["name"]) for spec in self.method)
            raise DyrateError(f"--predictor {self.predictor}: there is nothing that it is for in {names}")
        return found


def _with_predictor(spec: Mapping[str, Any], given: Path | None, model: str) -> Mapping[str, Any]:
    if "predictor" in spec or "predictor" not in schema(class_of(spec["name"]))["properties"]:
        return spec
    predictor = str(given) if given is not None else shipped_predictor(spec["name"], model)
    return spec if predictor is None else {**spec, "predictor": predictor}


def shipped_predictor(method: str, model: str) -> str | None:
    """The folder of the predictor that the study `testbed` gives the first method of a name on a model.

    None for a model that is not that study's, and where its config is not at hand.
    """
    from dyrate.study import Study

    if not STUDY.is_file():
        return None
    for job in Study.read(STUDY).jobs:
        ours = job.method.name == method and job.predictor is not None and job.predictor.shipped
        if ours and Path(job.model.path).resolve() == Path(model).expanduser().resolve():
            assert job.predictor is not None
            return job.predictor.folder
    return None
