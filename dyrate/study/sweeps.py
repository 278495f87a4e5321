"""Which evaluations share a process: the imports and the model are then loaded once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dyrate.study.entries import NONE, StudyJob
from dyrate.study.model import Model


@dataclass(frozen=True)
class Sweep:
    """Evaluations of one model and one group of methods, one after another in a process."""

    jobs: tuple[StudyJob, ...]
    number: int  # from 1 on, among those of its model and group

    @property
    def model(self) -> Model:
        """The model that is loaded."""
        return self.jobs[0].model

    @property
    def name(self) -> str:
        """A name of its own, without the methods, of which there may be many: `testbed-s_main_2`."""
        return f"{self.model.name}_{self.jobs[0].method.group}_{self.number}"

    @property
    def unpruned(self) -> bool:
        """Whether it makes what the others are compared with."""
        return self.jobs[0].method.name == NONE

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Those that any of its jobs is on."""
        return tuple(dict.fromkeys(name for job in self.jobs for name in job.method.benchmarks))

    @property
    def size(self) -> int:
        """How many benchmarks are run, by any of its jobs: what it costs, roughly."""
        return sum(len(job.method.benchmarks) for job in self.jobs)


@dataclass(frozen=True)
class Part:
    """The questions of a benchmark that one process answers for a sweep, which then finds the answers."""

    sweep: Sweep
    benchmark: str
    number: int
    """From 1 on, of `count`."""
    count: int

    @property
    def key(self) -> tuple[str, str]:
        """The sweep's name, and one among its parts."""
        return self.sweep.name, f"{self.benchmark}.{self.number}-of-{self.count}"

    @property
    def share(self) -> str:
        """As `dyrate evaluate --part` takes it."""
        return f"{self.number}/{self.count}"

    @property
    def jobs(self) -> tuple[StudyJob, ...]:
        """The sweep's jobs on the benchmark."""
        return tuple(job for job in self.sweep.jobs if self.benchmark in job.method.benchmarks)

    def predictor_files(self, shipped: bool) -> list[str]:
        """Of the predictors that those run with, shipped or not."""
        return [path for job in self.jobs for path in job.predictor_files(shipped)]


def share_out(jobs: Iterable[StudyJob], size: int) -> tuple[Sweep, ...]:
    """Share the jobs out in their order, at most `size` to a sweep.

    An entry that is added to a group of methods moves no other group's jobs. Unpruned jobs are apart: all
    others are compared with them, and they would run again with any job that shared their process. Jobs that
    wait for a training, which may fail, are apart as well.
    """
    alike: dict[tuple[str, str, bool, bool], list[StudyJob]] = {}
    for job in jobs:
        unpruned, waiting = job.method.name == NONE, bool(job.predictor_files(shipped=False))
        alike.setdefault((job.model.name, job.method.group, unpruned, waiting), []).append(job)
    sweeps: list[Sweep] = []
    numbers: Counter[tuple[str, str]] = Counter()
    for (model, group, *_), members in alike.items():
        for start in range(0, len(members), size):
            numbers[model, group] += 1
            sweeps.append(Sweep(tuple(members[start : start + size]), numbers[model, group]))
    return tuple(sweeps)
