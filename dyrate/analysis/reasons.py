"""Why a result is not there, or is not the one that the study asks for: from files and the logs of jobs."""

from collections.abc import Collection
from pathlib import Path

from dyrate.evaluation.placement import is_of
from dyrate.evaluation.provenance import result_code
from dyrate.evaluation.results import Result
from dyrate.study import Study, StudyJob
from dyrate.study.entries import weights_of
from dyrate.study.fetches import records

_ERROR = "dyrate: error: "
_LONGEST = 400  # characters of what a job said
_NONE = (
    "no job has begun to make it: it was stopped before, or lost before its first word "
    "(.snakemake/log, and on a cluster .snakemake/slurm_logs)"
)
_KILLED = "it ended without a word: out of memory or time, with its node or by hand (or it still runs)"


def why(study: Study, job: StudyJob) -> str:
    """Why a job has no result: what it waited for is not there, or its last words."""
    if job.predictor is not None and not trained(job):
        return f"its predictor {job.predictor.name} is not trained: {last_words(_training(study, job))}"
    for name, path in zip(job.method.benchmarks, study.data_of(job.method.benchmarks), strict=False):
        if not Path(path).exists():
            made_by = ("fetch", name) if study.tasks == "hub" else ("build_benchmarks",)
            return f"its data is not there: {last_words(study.log(*made_by))}"
    if not _there(records(study, job.model)):
        return f"its model is not there: {last_words(study.log('fetch', 'models', job.model.name))}"
    sweep = next(sweep for sweep in study.sweeps if job in sweep.jobs)
    for key, done in zip(study.parts_of(sweep), study.done(sweep), strict=True):
        if not Path(done).exists() and Path(study.log("parts", *key)).exists():
            return f"a part of its answers is not there: {last_words(study.log('parts', *key))}"
    results = [one.result for one in sweep.jobs]
    return last_words(
        study.log(*sweep.jobs[0].key), job.result, [path for path in results if path != job.result]
    )


def last_words(log: str, about: str = "", others: Collection[str] = ()) -> str:
    """What the job that wrote a log said at its end, and where it stands.

    A process of several evaluations begins an error with the result that it is `about`; those of the `others`
    are left out.
    """
    path = Path(log)
    if not path.is_file():
        return _NONE
    lines = [line for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    told = [text for text in told if not text.startswith(tuple(f"{other}: " for other in others))]
    if told:
        text = told[-1].removeprefix(f"{about}: ")
    elif any(line.startswith("Traceback ") for line in lines):
        text = lines[-1].strip()
    else:
        text = _KILLED
    return f"{text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'} ({log})"


def outdated(study: Study, job: StudyJob, path: Path, result: Result) -> str | None:
    """Why a result is another than the one that the job would make now; None if it is that one.

    Snakemake knows, but where it was stopped, results that it would have made anew are still there.
    """
    meta = result["meta"]
    hashes = meta.get("hashes", {})
    if not is_of(meta["command"], study.evaluation(job)):
        return "what is there was made with other settings"
    if hashes.get("code") not in (None, result_code(job.method.spec)):
        return "what is there was made with other code"
    if job.model.path and job.model.files:
        now = weights_of(job.model.path, job.model.content)
        if hashes.get("weights") not in (None, now):
            return "what is there is of other weights"
    for needed in (*job.predictor_files(shipped=False), *study.data_of(job.method.benchmarks)):
        if not Path(needed).exists() or Path(needed).stat().st_mtime > path.stat().st_mtime:
            return f"what is there was made before {needed}"
    return None


def trained(job: StudyJob) -> bool:
    """Whether the predictor that a job runs with, if it does, is there."""
    return _there(job.predictor_files(shipped=False))


def untrained(study: Study, job: StudyJob) -> bool:
    """Whether a job's predictor was to be trained and is not there, so that a result is of an earlier one."""
    return not trained(job) and Path(_training(study, job)).exists()


def _training(study: Study, job: StudyJob) -> str:
    return study.log(job.model.name, "train_predictor", job.predictor.name if job.predictor else "")


def _there(paths: Collection[str]) -> bool:
    return all(Path(path).exists() for path in paths)
