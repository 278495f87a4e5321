"""The whole of config/paper.yaml on stand-ins, through Slurm: a set cannot be reached, and a job is killed.

It takes about half an hour on two free cores, and is no part of the suite:
    PATH+=:/usr/sbin PYTHONPATH=FOLDER pytest -s --basetemp=/tmp/study tests/slurm/paper_study.py
"""

import io
import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from datasets import Dataset
from lmms_eval.tasks import __file__ as tasks
from lmms_eval.utils import load_yaml_config

from dyrate.evaluation.benchmarks import BENCHMARKS, Benchmark
from dyrate.study import Study
from dyrate.study.sweeps import Sweep
from tests.evaluation.fake_hub import Repo, card, folder_files, serving
from tests.evaluation.stand_in_adapters import make_instructblip
from tests.evaluation.stand_ins import make_benchmark
from tests.pipeline.conftest import REPOSITORY, Project
from tests.pipeline.test_paper import save_checkpoint
from tests.slurm.test_slurm import beside_plugin, command, pytestmark, say, table

__all__ = ["pytestmark"]
ROWS = 8
ENDED = "it ended without a word"
UNREACHABLE = "flickr30k"
CHANGES = {
    "samples: null": "samples: 4",
    "seed: 0\n": "seed: 0\nmetrics: primary\n",  # METEOR's Java takes 15 seconds to start
    "device: cuda": "device: auto",
    "threads: 4": "threads: 1",
    "sweep: 1 ": "sweep: 16 ",  # of a job's minute here, most are the starts of Snakemake and of Python
    "steps: 500, batch_size: 8": "steps: 2, batch_size: 2",
    "ranking_steps: 250": "ranking_steps: 2",
    "new_tokens: 64, rounds: 20": "new_tokens: 8, rounds: 1",
}
"""All that is altered in config/paper.yaml; models and data sets keep their names on the hub."""


@pytest.fixture
def paper(tmp_path: Path) -> Project:
    project = Project.copied_from(REPOSITORY, tmp_path)
    for old, new in CHANGES.items():
        project.edit("config/paper.yaml", old, new)
    shutil.copytree(REPOSITORY / "results/h200", project.folder / "results/h200")
    write_questions(project.folder / "data/paper")
    return project


def models(folder: Path) -> list[Repo]:
    """The four models, under their names on the hub."""
    for layers in (32, 40):
        save_checkpoint(folder / str(layers), layers, tower=12)
        # Bytes that begin no ASCII letter end an answer, or answers would be as long as they may.
        path = folder / f"{layers}/generation_config.json"
        ends = {"eos_token_id": [2, *range(3 + 128, 3 + 256)]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **ends}))
    blip = folder_files(make_instructblip(folder / "blip"))
    return [
        Repo("model", "llava-hf/llava-1.5-7b-hf", folder_files(folder / "32")),
        Repo("model", "llava-hf/llava-1.5-13b-hf", folder_files(folder / "40")),
        Repo("model", "Salesforce/instructblip-vicuna-7b", blip),
        Repo("model", "Salesforce/instructblip-vicuna-13b", blip),
    ]


def data_set(folder: Path, benchmark: Benchmark) -> Repo:
    """A benchmark's data set under its name on the hub, in its configurations, splits and columns."""
    path = Path(tasks).parent / benchmark.hub_folder / f"{benchmark.hub_task}.yaml"
    task = load_yaml_config(str(path), mode="simple")
    config, split = task.get("dataset_name") or "default", task["test_split"]
    rows = Dataset.from_parquet(str(make_benchmark(folder, benchmark.name, ROWS)))
    parts = {config: rows}
    if benchmark.name == "gqa":  # its questions name their images, which are a configuration of their own
        names = [f"n{row}" for row in range(len(rows))]
        parts = {
            config: rows.remove_columns("image").add_column("imageId", names),
            "testdev_balanced_images": rows.select_columns(["image"]).add_column("id", names),
        }
    files = {f"{name}/{split}-00000-of-00001.parquet": parquet(part) for name, part in parts.items()}
    files["README.md"] = card({name: {split: f"{name}/{split}-*"} for name in parts})
    return Repo("dataset", task["dataset_path"], files)


def parquet(rows: Dataset) -> bytes:
    stream = io.BytesIO()
    rows.to_parquet(stream)
    return stream.getvalue()


def write_questions(folder: Path) -> None:
    """A user's own questions to train on, in the place that the config names."""
    folder.mkdir(parents=True)
    rows = Dataset.from_parquet(str(make_benchmark(folder, "gqa", 16)))
    with (folder / "train.jsonl").open("w") as file:
        for number, row in enumerate(rows):
            row.pop("image").save(folder / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", **row}) + "\n")


def cancel(project: Project, sweep: Sweep, cancelled: list[str]) -> None:
    """Cancel a sweep's job when it has made its first result."""
    while not cancelled:
        time.sleep(1)
        told = subprocess.run(["squeue", "-ho", "%T %k %i"], capture_output=True, text=True, check=False)
        running = re.compile(rf"RUNNING rule_evaluate_{sweep.name}\b\S* (\d+)")
        jobs = running.findall(told.stdout)
        if jobs and (project.folder / sweep.jobs[0].result).exists():
            subprocess.run(["scancel", jobs[0]], check=True)
            cancelled += jobs


@pytest.mark.parametrize("slurm", [2], indirect=True)
def test_the_papers_study_ends_with_a_page_that_shows_what_is_missing(
    paper: Project, slurm: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setenv("PYTHONPATH", beside_plugin(paper))
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(folder / "home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        study = Study.read(paper.folder / "config/paper.yaml")
        sets = {name: data_set(folder, BENCHMARKS[name]) for name in study.benchmarks}
        for repo in (*models(folder), *sets.values()):
            hub.add(repo)
        sets[UNREACHABLE].down = 503

        stopped = say(paper, *command())

        assert stopped.returncode == 1
        assert f"data {UNREACHABLE}" in stopped.stderr
        assert "Nothing has been started. Mend it" in stopped.stderr

        victim = next(
            sweep for sweep in study.sweeps if sweep.jobs[0].method.group == "budget" and len(sweep.jobs) > 4
        )
        cancelled: list[str] = []
        threading.Thread(target=cancel, args=(paper, victim, cancelled), daemon=True).start()
        first = say(paper, *command(), "--config", "preflight=warn")

        assert (first.returncode, len(cancelled)) == (1, 1)
        lost = [job for job in victim.jobs if not (paper.folder / job.result).exists()]
        killed = {(job.result, name) for job in lost for name in job.method.benchmarks}
        unreachable = {
            (job.result, UNREACHABLE) for job in study.jobs if UNREACHABLE in job.method.benchmarks
        }
        asked = {(job.result, name) for job in study.jobs for name in job.method.benchmarks}
        rows = [
            {**row, "result": row["result"].replace(".partial.json", ".json")}
            for row in table(paper, "measurements")
        ]
        missing = {(row["result"], row["benchmark"]): row["missing"] for row in rows if row["missing"]}
        there = {(row["result"], row["benchmark"]) for row in rows if row["result"] and row["value"]}
        assert 0 < len(lost) < len(victim.jobs)
        assert (missing.keys(), there) == (killed | unreachable, asked - missing.keys())
        assert all("fails (503)" in missing[cell] for cell in unreachable)
        log = study.log(*victim.jobs[0].key)
        assert all(missing[cell].startswith(ENDED) and log in missing[cell] for cell in killed)
        pages = {path.name: path.read_text() for path in (paper.folder / "reports/paper").glob("*.html")}
        assert "Not complete." in pages["index.html"]
        assert all(name in pages["provenance.html"] for name in (log, study.log("fetch", UNREACHABLE)))

        planned = say(paper, *command(), "-n")

        again = {sweep.name for sweep in study.sweeps if UNREACHABLE in sweep.benchmarks} | {victim.name}
        assert set(re.findall(r"^evaluate_(\S+)", planned.stdout + planned.stderr, re.MULTILINE)) == again

        sets[UNREACHABLE].down = None
        second = say(paper, *command())

        assert second.returncode == 0
        assert not table(paper, "missing")
        assert "Nothing to be done" in say(paper, *command()).stderr
