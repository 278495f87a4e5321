"""What a job would refuse, before any runs: methods and predictors that do not fit the models."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import registry
from dyrate.errors import DyrateError
from dyrate.evaluation.harness_adapters import Adapter
from dyrate.study.config import METHOD_KEYS, StudyError
from dyrate.study.entries import StudyJob
from dyrate.study.model import Model
from dyrate.study.plan import Plan

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod

Size = tuple[int, int]


def check_jobs(plan: Plan) -> None:
    """Look up models and predictors, and load what has results to make.

    Raises `DyrateError` for a folder that is not there, a shipped predictor of another recipe, a wrong field,
    layers that a local model does not have, one method under two names, and an adapter that lmms-eval does
    not have or that does not take its arguments. Needs torch where there is something to check, and takes its
    seconds.
    """
    for predictor in plan.predictors:
        predictor.check_shipped()
    waiting = [job for job in plan.jobs if not Path(job.result).exists()]
    if not waiting and all(Path(entry.folder).exists() for entry in plan.trainings):
        return
    named = plan.typed.training
    read = any(entry.data == named for entry in plan.trainings)
    if named and read and named != plan.questions and not Path(named).is_file():
        raise StudyError(
            f"training: there is no file {named} (relative to {Path.cwd()}); a rule makes "
            f"data/{plan.name}/train.jsonl, any other file is yours"
        )
    # By name, as methods are: the report reads studies, and the training's code is none of its own.
    read = import_module("dyrate.predictor_training.recipe").Recipe.read
    recipes = {entry.name: read(entry.recipe, f"predictors: {entry.name}") for entry in plan.predictors}
    sizes = {model: _size(model) for model in dict.fromkeys(job.model for job in waiting)}
    for job in waiting:
        try:
            method = registry.load_method(job.spec)
            _check(job, method, sizes[job.model], recipes)
        except DyrateError as error:
            raise StudyError(f"methods: {job.method.slug} on {job.model.name}: {error}") from error
    _check_once(plan.jobs)


def _size(model: Model) -> Size | None:
    """Layers of a local checkpoint, and query heads in each; None for a hub id."""
    if model.missing:
        raise StudyError(
            f"models: {model.name}: there is no folder {model.checkpoint} (relative to {Path.cwd()})"
            "; the testbed's own models are made by `dyrate testbed train`"
        )
    if model.system is not None:
        try:
            Adapter.of(model.system)
        except DyrateError as error:
            raise StudyError(f"models: {model.name}: {error}") from error
        return None
    folder = Path(model.path).expanduser()
    if model.revision is not None and folder.is_dir():
        raise StudyError(
            f"models: {model.name}: revision: {model.path} is a folder; only what is on the hub has revisions"
        )
    if not (folder / "config.json").is_file():
        return None
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
        return int(config.num_hidden_layers), int(config.num_attention_heads)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"models: {model.name}: {folder / 'config.json'}: {reason:.300}") from None


def _check(job: StudyJob, method: "ReductionMethod", size: Size | None, recipes: dict[str, Any]) -> None:
    hidden = METHOD_KEYS & {*registry.schema(type(method))["properties"]}
    if hidden:
        raise StudyError(f"its field {min(hidden)!r} is a key of the study's own: give it another name")
    layers, heads = size or (None, None)
    trained = job.predictor is None or Path(job.predictor.files[0]).is_file()
    if job.predictor is not None and hasattr(method, "check_predictor"):
        from dyrate.predictor_config import PredictorConfig, read_record

        config = (
            PredictorConfig(**read_record(Path(job.predictor.folder))["config"])
            if trained
            else recipes[job.predictor.name].config(heads or 1)
        )
        _check_origin(job, config.origin)
        method.check_predictor(config, heads or config.heads)
        deepest = max((config.layer, *config.lagged))
        if layers is not None and deepest >= layers:
            raise StudyError(
                f"its predictor is made for layer {deepest}; the model has layers 0..{layers - 1}"
            )
    if layers is not None and heads is not None and trained:
        method.check(layers, heads)


def _check_origin(job: StudyJob, origin: str) -> None:
    """Keep what is ours out of the paper's rows, and what the config says of a recipe true."""
    assert job.predictor is not None
    if job.predictor.origin not in (None, origin):
        raise StudyError(
            f"its predictor has origin: {job.predictor.origin}, but the recipe makes it {origin!r}: the "
            "paper's reads class mass averaged over heads, and ranks by the attention of layer K-1"
        )
    if origin == "ours" and job.method.published:
        raise StudyError(
            "its predictor is not the paper's, so that it cannot stand beside the paper's row: leave out "
            f"published: {dict(job.method.published)}"
        )


def _check_once(jobs: Iterable[StudyJob]) -> None:
    """Refuse two entries that are one method, as with and without a default: two rows of one result."""
    entries: dict[Any, StudyJob] = {}
    for job in jobs:
        key = job.model.name, job.key[2], registry.load_method(job.spec)
        first = entries.setdefault(key, job)
        if first.method.slug != job.method.slug:
            raise StudyError(
                f"methods: {first.method.slug} and {job.method.slug} are one method on {job.model.name}: its "
                "fields have these values by default; leave one out"
            )
