"""The study itself: a checked config, and what each process of it is asked to do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dyrate.evaluation.job import DEFAULT, Evaluation
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.predictor_training.job import Training
from dyrate.study.checks import problems
from dyrate.study.config import read_config, refuse
from dyrate.study.entries import StudyJob, StudyPredictor
from dyrate.study.plan import Plan
from dyrate.study.sweeps import Part, Sweep, share_out
from dyrate.training_questions.job import TrainingQuestions
from dyrate.typed import Record


@dataclass(frozen=True)
class Study(Plan):
    """A checked study config; `config` is the resolved mapping, defaults filled in."""

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config") -> Self:
        """Check a config mapping; raises `StudyError` with a line per problem, naming `source` and key."""
        study = super().of(config, source)
        refuse(source, problems(study))
        return study

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a study from a YAML or JSON file; a `StudyError` for one that is none."""
        return cls.of(read_config(path), str(path))

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Every job, shared out to processes."""
        return share_out(self.jobs, self.typed.sweep)

    @cached_property
    def parts(self) -> Mapping[tuple[str, str], Part]:
        """What is answered beside the evaluations, by the sweep's name and its own."""
        found = [
            Part(sweep, name, number, count)
            for sweep in self.sweeps
            for name in sweep.benchmarks
            if (count := self.typed.parts.get(name, self.typed.parts.get(DEFAULT)))
            for number in range(1, count + 1)
        ]
        return {part.key: part for part in found}

    def parts_of(self, sweep: Sweep) -> list[tuple[str, str]]:
        """The keys of a sweep's parts."""
        return [key for key, part in self.parts.items() if part.sweep == sweep]

    def done(self, sweep: Sweep) -> list[str]:
        """What says of each of them that it is answered."""
        return [f"results/{self.name}/parts/{'/'.join(key)}.done" for key in self.parts_of(sweep)]

    @cached_property
    def gpus(self) -> int:
        """How many GPUs a job asks Snakemake for: as the config says, else one where its device is a GPU."""
        if self.typed.resources.gpu is not None:
            return self.typed.resources.gpu
        if self.typed.device != "auto":
            return int(self.typed.device != "cpu")
        import torch  # takes seconds, so only where a job asks

        return int(torch.cuda.is_available())

    @property
    def resources(self) -> dict[str, Any]:
        """What a rule tells Snakemake that a job takes; whether a GPU, only when it asks."""
        return {**self.typed.resources.model_dump(exclude_none=True), "gpu": lambda wildcards: self.gpus}

    @property
    def looks_first(self) -> bool:
        """Whether it begins with a preflight."""
        return self.tasks == "hub" and self.typed.preflight != "skip"

    def share(self, sweep: Sweep) -> float:
        """A sweep's part of the study's work, roughly: models are listed from the smallest on."""
        work = [one.size * (1 + self.models.index(one.model)) for one in self.sweeps]
        return work[self.sweeps.index(sweep)] / sum(work)

    def urgency(self, sweep: Sweep) -> float:
        """What runs sooner has more, below 1: the unpruned, whom all are compared with, then the longest."""
        return (self.share(sweep) + sweep.unpruned) / 2

    def shared(self, kind: type[Record]) -> dict[str, Any]:
        """What the config says of the fields of a kind of job; CPU threads are the workflow's to add."""
        data = {"testbed": self.config["data"], "hub": self.hub}.get(self.tasks)
        given = {name: self.config[name] for name in kind.model_fields if name in self.config}
        found = {**given, "data": data, "threads": None}
        return {name: value for name, value in found.items() if name in kind.model_fields}

    def evaluation(self, job: StudyJob) -> Evaluation:
        """What `dyrate evaluate` is asked for a job.

        No baseline: it would wait for that, and fail with it. What is paired is paired in the tables.
        """
        system = job.model.system
        return Evaluation.model_validate(
            {
                **self.shared(Evaluation),
                "benchmarks": job.method.benchmarks,
                **({"model": job.model.adapter} if system else {**job.model.asked, **job.model.fit}),
                "model_name": job.model.name,
                "method": job.spec,
                "decoding": job.decoding,
                "output": Path(job.result).parent,
                **({} if system is None else {"adapter": system.options}),
            }
        )

    def evaluations(self, sweep: Sweep, benchmark: str | None = None) -> str:
        """The file of jobs, as JSON, that a sweep's `dyrate evaluate` is called with; or of one benchmark."""
        jobs = [self.evaluation(job) for job in sweep.jobs if benchmark in (None, *job.method.benchmarks)]
        if benchmark is not None:
            jobs = [job.model_copy(update={"benchmarks": (benchmark,)}) for job in jobs]
        return json.dumps(
            [job.model_dump(mode="json", exclude_none=True) for job in jobs], ensure_ascii=False
        )

    def asked_training(self, predictor: StudyPredictor) -> Training:
        """What `dyrate train-predictor` is asked for a predictor."""
        # In float16 the gates of training have no gradient.
        dtype = "bfloat16" if self.typed.dtype == "float16" else self.typed.dtype
        return Training.model_validate(
            {
                **predictor.model.asked,
                "recipe": predictor.recipe,
                "data": predictor.data,
                "device": self.typed.device,
                "dtype": dtype,
                "output": predictor.folder,
            }
        )

    def asked_questions(self, output: str) -> TrainingQuestions:
        """What `dyrate training-questions` is asked: none of the study's images may be in them."""
        return TrainingQuestions.model_validate({**self.shared(TrainingQuestions), "output": output})

    def log(self, *key: str) -> str:
        """The path of a job's log: what a process is about, such as model, method and decoding."""
        return f"{'/'.join(('results', self.name, 'logs', *key))}.log"

    @property
    def without_data(self) -> tuple[str, ...]:
        """A line for each training whose questions are not there: which rows the study will lack."""
        lines = []
        for entry in self.trainings:
            if entry.data is None or Path(entry.data).is_file() or self.made_questions(entry):
                continue
            rows = sum(job.predictor is entry for job in self.jobs)
            lines.append(
                f"{entry.data} is not there: predictor {entry.name!r} of {entry.model.name} will not be "
                f"trained, and {rows} row{'' if rows == 1 else 's'} of the tables will be missing: "
                + ", ".join(" ".join(job.key[1:]) for job in self.jobs if job.predictor is entry)
            )
        return tuple(lines)

    def code(self, job: StudyJob) -> str:
        """A hash of the code that a job runs: the evaluation's and the method's, no other method's."""
        return self._codes[job.method.name]

    @cached_property
    def _codes(self) -> dict[str, str]:
        """That hash by the method's name, on which alone it depends."""
        evaluation = fingerprint(["dyrate.evaluation.commands"])
        return {method.name: f"{evaluation}-{result_code(method.spec)}" for method in self.methods}

    def to_json(self) -> str:
        """The checked config, defaults filled in, as one line of JSON."""
        return json.dumps(self.config, ensure_ascii=False)
