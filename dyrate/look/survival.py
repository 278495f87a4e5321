"""A study's samples looked at again: some by chance, and those where a method wins and loses most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from dyrate.errors import DyrateError
from dyrate.evaluation import answers, provenance, results
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.evaluate import device_name
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.intervals import estimate
from dyrate.evaluation.job import told_bounds
from dyrate.evaluation.requests import images_of, new_tokens
from dyrate.evaluation.results import Result, ResultFiles
from dyrate.evaluation.scoring import Sample, primary_statistic, to_units
from dyrate.files import make_folder
from dyrate.fingerprint import fingerprint
from dyrate.look import record
from dyrate.look.looker import Looker
from dyrate.look.record import Look, Survival
from dyrate.look.sources import requests_of
from dyrate.look.survival_job import Survive

Given = list[tuple[Result, Mapping[str, Sequence[Sample]]]]


@dataclass(frozen=True)
class Chosen:
    """A sample to be shown, and why."""

    benchmark: str
    row: int
    why: str


def survive(job: Survive) -> Survival:
    """Look at samples of a study again, and write the record: one that lacks answers in its `partial` place.

    Raises `DyrateError` for results that do not belong together, or that are of other weights or data.
    """
    make_folder(job.output.parent)
    given = _read(job)
    chosen = choose(given, job.benchmarks, job.shown, job.seed)
    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    looker = Looker(job.model, job.device, job.dtype, job.revision, job.chat_template, job.pixels, job.fit)
    needed = [name for name in job.benchmarks if any(one.benchmark == name for one in chosen)]
    cuts = [cut for name, cut in zip(job.benchmarks, job.cuts, strict=True) if name in needed]
    tasks = {task.benchmark.name: task for task in load_tasks(select(needed), job.tasks, job.data, cuts)}
    data = {name: task.data_hash for name, task in tasks.items()}
    _check_inputs(job, given[0][0], looker.model.weights_hash, data)
    requests = {name: requests_of(looker.model, task) for name, task in tasks.items()}
    settings = looker.settings([result["method"] for result, _ in given[1:]])
    looks: list[Look] = []
    for one in chosen:
        request = requests[one.benchmark][one.row]
        images = images_of(request, looker.model.task_dict[request.task][request.split])
        sample = _sample(given[0][1], one)
        failed: dict[str, str] = {}
        look = looker.look_at(
            looker.model.question(request, images),
            f"{one.benchmark}, row {one.row}",
            request.context,
            settings,
            new_tokens(request, settings[0].decoding),
            references=list(dict.fromkeys(sample.references)),
            failed=failed,
        )
        for answer in look["answers"]:
            for result, samples in given:
                if result["method"] == answer["method"]:
                    answer["score"] = _score(one.benchmark, _sample(samples, one))
        looks.append({**look, "why": one.why})
    hashes: results.Hashes = {
        "weights": looker.model.weights_hash,
        "template": looker.model.style.hash,
        "data": data,
        "code": fingerprint(["dyrate.look.survival", "dyrate.reduction"]),
    }
    found: Survival = {
        "schema": record.SCHEMA,
        "version": record.VERSION,
        "study": job.study,
        "model": job.name,
        "command": job.command(),
        "commit": provenance.commit(),
        "device": device_name(looker.model),
        "dtype": job.dtype,
        "hashes": hashes,
        "looks": looks,
    }
    if looker.knows:
        found["knows"] = looker.knows
    if any("failed" in look for look in looks):
        record.write(record.partial(job.output), found)
    else:
        record.write(job.output, found)
        record.partial(job.output).unlink(missing_ok=True)
    return found


def choose(given: Given, benchmarks: Sequence[str], shown: int, seed: int) -> list[Chosen]:
    """Choose samples: a third of them where the first method wins most against the unpruned model, a third
    where it loses most, each from the benchmarks in turn, and the others by chance.
    """
    label = given[1][0]["label"]
    unpruned, reduced = given[0][1], given[1][1]
    differences: dict[str, dict[int, tuple[float, float]]] = {}
    for name in benchmarks:
        theirs = {sample.doc_id: _score(name, sample) for sample in reduced[name]}
        differences[name] = {
            sample.doc_id: (theirs[sample.doc_id], _score(name, sample))
            for sample in unpruned[name]
            if sample.doc_id in theirs
        }
    chosen: dict[tuple[str, int], str] = {}
    for sign, word in ((1, "win"), (-1, "loss")):
        ranked = []
        for name in benchmarks:
            moved = {row: sign * (new - old) for row, (new, old) in differences[name].items()}
            best = sorted((row for row in moved if moved[row] > 0), key=lambda row: -moved[row])
            ranked.append([(name, row) for row in best])
        in_turn = [pair for pair in chain.from_iterable(zip_longest(*ranked)) if pair is not None]
        for name, row in [pair for pair in in_turn if pair not in chosen][: shown // 3]:
            new, old = differences[name][row]
            metric = BENCHMARKS[name].primary.name
            chosen[name, row] = f"largest {word} of {label}: {metric} {new:.3g}, unpruned {old:.3g}"
    pairs = [(name, row) for name in benchmarks for row in sorted(differences[name])]
    rest = [pair for pair in pairs if pair not in chosen]
    for place in np.random.default_rng(seed).permutation(len(rest))[: shown - len(chosen)]:
        chosen[rest[place]] = "drawn at random"
    return [Chosen(*pair, why) for pair, why in chosen.items()]


def _read(job: Survive) -> Given:
    """Results and their answers; refuses those that cannot stand side by side."""
    given: Given = []
    for number, path in enumerate(job.results):
        result = results.read(path)
        for what, theirs, ours in (
            ("model", result["model"], job.name),
            ("decoding", result["decoding"]["name"], "greedy"),
        ):
            if theirs != ours:
                raise DyrateError(f"--results {path}: its {what} is {theirs!r}, should be {ours!r}")
        if (result["method"]["name"] == "none") != (number == 0):
            raise DyrateError(f"--results {path}: the unpruned model's result comes first, and once")
        samples = answers.read(ResultFiles.beside(path).answers, result)
        if missing := [name for name in job.benchmarks if name not in samples]:
            known = ", ".join(samples)
            raise DyrateError(f"--results {path}: has no benchmark {missing[0]!r}; it has {known}")
        given.append((result, samples))
    return given


def _check_inputs(job: Survive, result: Result, weights: str, data: Mapping[str, str]) -> None:
    """Refuse results of other weights, images or data than those that are looked at now."""
    if (bounds := result["meta"].get("pixels")) != (job.pixels and [*job.pixels]):
        raise DyrateError(
            f"--results {job.results[0]}: its images have {told_bounds(bounds)}: ask with the same"
        )
    hashes = result["meta"].get("hashes", {})
    of_data = hashes.get("data", {})
    pairs = [("weights", hashes.get("weights"), weights)]
    pairs += [(f"data of {name}", of_data.get(name), found) for name, found in data.items()]
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise DyrateError(
                f"--results {job.results[0]}: its {what} have the hash {theirs}, those found now {ours}; "
                "evaluate again"
            )


def _sample(samples: Mapping[str, Sequence[Sample]], one: Chosen) -> Sample:
    return next(sample for sample in samples[one.benchmark] if sample.doc_id == one.row)


def _score(benchmark: str, sample: Sample) -> float:
    """What a sample alone gives its benchmark's metric."""
    units = to_units(BENCHMARKS[benchmark], [sample])
    return float(estimate(units, primary_statistic(BENCHMARKS[benchmark], units)))
