"""What a study needs of the hub, each thing looked at: there, readable, of the right commit, how large."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.hub import record
from dyrate.evaluation.hub.fetch import existing, wanted
from dyrate.evaluation.hub.job import Fetch
from dyrate.evaluation.hub.trouble import HubError
from dyrate.preflight.findings import Finding, State
from dyrate.study import Study
from dyrate.study.fetches import fetches

_PARALLEL = 8


@dataclass(frozen=True)
class Looked:
    """What was found of one thing."""

    finding: Finding
    coming: int = 0
    """Bytes that are not in the cache yet."""
    data: int = 0
    """Bytes of rows in all."""
    reachable: bool = True
    known: bool = True
    """Whether its size is."""


def look(study: Study) -> list[Looked]:
    """Look at all that the study needs, in the config's order. What is fetched already is not asked for."""
    jobs = fetches(study)
    if not jobs:
        return []
    first, *others = jobs.items()
    found = [_look(*first)]
    if not found[0].reachable:  # each other one would wait as long, to say the same
        return [*found, *(_here(name, job) for name, job in others)]
    with ThreadPoolExecutor(_PARALLEL) as threads:
        return [*found, *threads.map(lambda item: _look(*item), others)]


def access(study: Study) -> Iterator[Finding]:
    """Whose token is used, and which hub."""
    from huggingface_hub import constants, get_token

    if not fetches(study):
        return
    offline = " (HF_HUB_OFFLINE: nothing is asked of it)" if constants.HF_HUB_OFFLINE else ""
    yield Finding("ok", "hub", f"{constants.ENDPOINT}, cache {constants.HF_HUB_CACHE}{offline}")
    if get_token() is None:
        cure = "only for gated sets and more requests an hour: `hf auth login`, or HF_TOKEN"
        yield Finding("note", "hub token", "none; public sets need none", cure)
    else:
        yield Finding("ok", "hub token", "there is one")


def _here(name: str, job: Fetch) -> Looked:
    """What the cache has, without the hub."""
    there = existing(job)
    if there is None:
        cure = "have it fetched where there is a network, by the rule `fetch`"
        missing = Finding("fails", _title(name, job), "is not fetched, and the hub cannot be reached", cure)
        return Looked(missing, reachable=False, known=False)
    size = record.size(there)
    what = f"{there['name']} at {there['commit'][:12]}, {size / 1e9:.2f} GB, fetched"
    return Looked(Finding("ok", _title(name, job), what), data=size if job.benchmark else 0)


def _look(name: str, job: Fetch) -> Looked:
    here = _here(name, job)
    if here.finding.state == "ok":
        return here
    try:
        found = wanted(job)
    except HubError as error:
        failed = Finding("fails", _title(name, job), f"{job.model or name}: {error.reason}", error.cure)
        return Looked(failed, reachable=error.reachable, known=False)
    what = f"{found.repository.name} at {found.commit[:12]}, {found.size / 1e9:.2f} GB"
    if found.missing:
        what += f", {found.missing / 1e9:.2f} to come"
    what += f", licence {found.licence or 'not stated'}"
    cure = "" if job.revision else f"to have the same again: {_pin(job)}: {found.commit}"
    state: State = "ok" if job.revision else "note"
    expected = BENCHMARKS[job.benchmark].hub_rows if job.benchmark else None
    if found.rows not in (None, expected):
        state, cure = "note", f"the estimate takes {expected:,}; is it the data that you mean?"
        what += f", {found.rows:,} rows"
    return Looked(
        Finding(state, _title(name, job), what, cure), found.missing, found.size if job.benchmark else 0
    )


def _title(name: str, job: Fetch) -> str:
    return f"model {name.removeprefix('models/')}" if job.model else f"data {name}"


def _pin(job: Fetch) -> str:
    return "revision" if job.model else f"revisions: {job.benchmark}"
