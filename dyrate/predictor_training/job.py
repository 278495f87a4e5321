"""What `dyrate train-predictor` is asked: a model, a recipe and data, and where the predictor goes."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from dyrate.errors import DyrateError
from dyrate.evaluation.job import ChatTemplate, Device, Pixels, Revision, Threads
from dyrate.files import parse_json
from dyrate.jobs import Job, option
from dyrate.typed import File

_DEFAULT: dict[str, Any] = {}
# In float16 a closed gate has no gradient.
TrainingDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    option("how", text="of the frozen model; auto: bfloat16 on a GPU, float32 on a CPU"),
]


def recipe_values(recipe: Any) -> Any:
    """Return what a recipe's JSON text says, or the JSON file of that path."""
    if not isinstance(recipe, str):
        return recipe
    text, source = recipe, f"{recipe!r:.80}"
    if not recipe.lstrip().startswith("{"):
        try:
            text, source = Path(recipe).read_text(encoding="utf-8"), recipe
        except (OSError, UnicodeDecodeError) as error:
            raise DyrateError(f"{recipe}: expected JSON text or a readable file ({error})") from None
    values = parse_json(text, source)
    if not isinstance(values, dict):
        raise DyrateError(f"{source}: {text!r:.80}: expected an object, {{...}}")
    return values


class Training(Job):
    """What to train; `dyrate train-predictor`'s options, in the order of its commands."""

    command_name = "train-predictor"

    model: Annotated[str, option("what", "DIR_OR_ID")]
    """checkpoint folder or hub id"""
    recipe: Annotated[dict[str, Any], BeforeValidator(recipe_values), option("what", "JSON")] = _DEFAULT
    """the recipe's keys that differ from the default, as JSON text or the path of a JSON file; an unknown key
    lists the known ones"""
    data: Annotated[File | None, option("data", "FILE")] = None
    """.jsonl or .parquet with `image`, `question`, `answer` (default: the testbed's training split)"""
    limit: Annotated[int | None, option("data", "N")] = None
    """use the first N entries of --data only"""
    device: Device = "auto"
    dtype: TrainingDtype = "auto"
    threads: Threads = None
    revision: Revision = None
    chat_template: ChatTemplate = None
    pixels: Pixels = None
    output: Annotated[File, option("result", "DIR")]
    """folder of the predictor and its checkpoint"""

    @model_validator(mode="after")
    def _check_limit(self) -> "Training":
        if self.limit is not None and (self.data is None or self.limit < 2):
            raise ValueError(f"--limit {self.limit}: expected at least 2, the entries of --data to use")
        return self
