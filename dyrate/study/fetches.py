"""What a study on the hub's data needs from there: models and benchmarks' data, each fetched by a job."""

from typing import Any

from dyrate.evaluation.hub.job import Fetch
from dyrate.study.model import Model
from dyrate.study.plan import Plan


def fetches(plan: Plan) -> dict[str, Fetch]:
    """What `dyrate fetch` is asked, by the path of the record without its ending."""
    found: dict[str, Fetch] = {}
    if plan.tasks == "hub":
        for name in plan.benchmarks:
            given: dict[str, Any] = {"benchmark": name, "revision": plan.typed.revisions.get(name)}
            place = f"{plan.hub}/{name}"
            found[name] = Fetch.of({**given, "output": f"{place}.json", "failures": f"{place}.failures.txt"})
    for model in plan.models:
        for path in records(plan, model):
            given = {
                "model": model.checkpoint,
                "revision": model.revision,
                "whole": model.adapter is not None,
            }
            found[f"models/{model.name}"] = Fetch.of({**given, "output": path})
    return found


def records(plan: Plan, *models: Model) -> list[str]:
    """The records of those models that are fetched."""
    fetched = [model for model in models if plan.tasks == "hub" and model.on_hub]
    return [f"{plan.hub}/models/{model.name}.json" for model in fetched]


def failures(job: Fetch) -> int:
    """How often a benchmark's data has not come, which makes the rule try again."""
    if job.failures is None or not job.failures.is_file():
        return 0
    return len(job.failures.read_text("utf-8").splitlines())
