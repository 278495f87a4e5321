"""The options that several kinds of job and the study's config have in common, each described once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.jobs import option
from dyrate.registry import as_spec
from dyrate.typed import File, Names, Natural, Positive


def _spec(value: Any) -> dict[str, Any]:
    """The mapping that a name, JSON text or a mapping stands for."""
    try:
        return as_spec(value, "")
    except DyrateError as error:  # whose place is not known here
        raise ValueError(str(error).removeprefix(": ")) from None


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    select(names)
    return names


UNPRUNED: dict[str, Any] = {"name": "none"}
Spec = Annotated[dict[str, Any], BeforeValidator(_spec)]

Benchmarks = Annotated[Names, AfterValidator(_known), option(", ".join(BENCHMARKS), "what", "NAME")]
Model = Annotated[str, option("a checkpoint's folder or hub id", "what", "M")]
Samples = Annotated[Positive | None, option("per benchmark; pairs and rotations stay whole", "what", "N")]
Tasks = Annotated[
    str,
    option(
        "testbed (local parquet), hub (lmms-eval's own data sets), or a folder of task files", "data", "WHERE"
    ),
]
Data = Annotated[File | None, option("folder of the parquet files (default: data/testbed)", "data", "DIR")]
BatchSize = Annotated[Positive, option("halved when memory is short", "how", "N")]
Device = Annotated[str, option("auto, cpu, cuda, cuda:N", "how", "DEVICE")]
Dtype = Annotated[Literal["float32", "float16", "bfloat16"], option("of the model", "how")]
Engine = Annotated[
    Literal["auto", "transformers", "graph"],
    option(
        "what generates: transformers, or graph, this package's own engine of fused kernels and CUDA graphs, "
        "which has no beams; auto takes the latter on a GPU where it can",
        "how",
    ),
]
Metrics = Annotated[
    Literal["all", "primary"],
    option(
        "primary leaves out what the tables do not show: METEOR takes longer than a small model",
        "result",
        printed="changed",
    ),
]
Threads = Annotated[
    Positive | None,
    # A pipeline gives as many as there are, and the run information says how many.
    option("CPU threads (default: as many as torch takes)", "how", "N", printed="never"),
]
Seed = Annotated[Natural, Field(le=2**63 - 1), option("of the bootstrap and of sampling", "how", "S")]
StudyName = Annotated[str, option("written into the result", "result", "NAME")]
ModelName = Annotated[
    str | None, option("written into the result (default: the folder's name)", "result", "NAME")
]
