"""The hub, played by a server here: what is fetched, once and no more; what goes wrong, and its cure."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image
from huggingface_hub import constants

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint import locate
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.hub import record
from dyrate.evaluation.hub.fetch import existing, wanted, wanted_model
from dyrate.evaluation.hub.job import Fetch
from dyrate.evaluation.hub.trouble import HubError
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.sweep import sweep
from tests.evaluation.fake_hub import (
    COMMIT,
    TOKEN,
    FakeHub,
    Repo,
    card,
    folder_files,
    playing,
    serving,
    switch_off,
)

POPE = "lmms-lab-encoder/POPE"
GQA = "lmms-lab-encoder/GQA"
OTHER = "f" * 40
_ROWS = "testdev_balanced_instructions"
_IMAGES = "testdev_balanced_images"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with playing(tmp_path, monkeypatch) as found:
        yield found


def pope(data: Path, **settings: Any) -> Repo:
    """POPE in two files, with a second split that nobody needs."""
    rows = Dataset.from_parquet(str(data / "pope.parquet"))
    return Repo(
        "dataset",
        POPE,
        {
            "README.md": card({"default": {"test": "data/test-*", "extra": "data/extra-*"}}),
            "data/test-00000-of-00002.parquet": parquet(rows.select(range(8))),
            "data/test-00001-of-00002.parquet": parquet(rows.select(range(8, 12))),
            "data/extra-00000-of-00001.parquet": parquet(rows.select(range(3))),
        },
        **settings,
    )


def gqa(data: Path) -> Repo:
    """GQA in its two configurations: questions, and the images that they name."""
    rows = Dataset.from_parquet(str(data / "gqa.parquet"))
    images = rows.select_columns(["image"]).select([5, 0, 1]).add_column("id", ["n5", "n0", "n1"])
    names = [("n0", "n1", "n5")[row % 3] for row in range(len(rows))]
    asked = rows.remove_columns("image").add_column("imageId", names)
    return Repo(
        "dataset",
        GQA,
        {
            "README.md": card(
                {
                    _ROWS: {"testdev": f"{_ROWS}/testdev-*"},
                    _IMAGES: {"testdev": f"{_IMAGES}/testdev-*"},
                    "train_all_images": {"train": "train_all_images/train-*"},
                }
            ),
            f"{_ROWS}/testdev-00000-of-00001.parquet": parquet(asked),
            f"{_IMAGES}/testdev-00000-of-00001.parquet": parquet(images),
            "train_all_images/train-00000-of-00001.parquet": parquet(images),
        },
    )


def parquet(rows: Dataset) -> bytes:
    stream = io.BytesIO()
    rows.to_parquet(stream)
    return stream.getvalue()


def fetch(tmp_path: Path, **asked: Any) -> record.Fetched:
    job = Fetch.of({"output": tmp_path / "hub" / f"{asked.get('benchmark', 'model')}.json", **asked})
    found = existing(job) or wanted(job).fetch()
    record.write(job.output, found)
    return found


def test_only_the_split_that_is_asked_comes_and_comes_once(
    hub: FakeHub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(pope(data))

    found = fetch(tmp_path, benchmark="pope")

    files = [f"data/test-0000{number}-of-00002.parquet" for number in (0, 1)]
    assert {name for name in hub.fetched if name.endswith(".parquet")} == {*files}
    assert (found["commit"], [file["path"] for file in found["parts"][0]["files"]]) == (COMMIT, files)
    content = hub.repos[f"datasets/{POPE}"].files
    assert [file["sha256"] for file in found["parts"][0]["files"]] == [
        hashlib.sha256(content[name]).hexdigest() for name in files
    ]
    switch_off(hub, monkeypatch)
    assert fetch(tmp_path, benchmark="pope") == found
    assert hub.asked == []


def test_what_was_fetched_is_read_with_the_hub_switched_off(
    hub: FakeHub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(pope(data))
    hub.add(gqa(data))
    for benchmark in ("pope", "gqa"):
        fetch(tmp_path, benchmark=benchmark)
    assert not any("train" in name for name in hub.fetched)
    switch_off(hub, monkeypatch)

    of_pope, of_gqa = load_tasks(select(["pope", "gqa"]), "hub", tmp_path / "hub", None)

    assert hub.asked == []
    assert (of_pope.name, of_gqa.name) == ("pope", "gqa")
    assert {of_pope.revision, of_gqa.revision} == {COMMIT}
    assert of_pope.data_hash != of_gqa.data_hash
    assert len(of_pope.task.test_docs()) == 12
    rows = Dataset.from_parquet(str(data / "gqa.parquet"))
    documents = of_gqa.task.test_docs()
    for row, document in enumerate(documents):
        expected = rows[(0, 1, 5)[row % 3]]["image"]
        assert of_gqa.task.doc_to_visual(document)[0].tobytes() == expected.convert("RGB").tobytes()
    assert isinstance(documents.features["image"], Image)


def test_an_evaluation_names_the_commits_it_is_of_and_asks_the_hub_for_nothing(
    hub: FakeHub, data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(pope(data))
    hub.add(Repo("model", "org/tiny", folder_files(checkpoint), commit=OTHER))
    fetch(tmp_path, benchmark="pope")
    fetch(tmp_path, model="org/tiny")
    switch_off(hub, monkeypatch)
    asked = {"model": "org/tiny", "benchmarks": ["pope"], "tasks": "hub", "data": tmp_path / "hub"}
    job = Evaluation.of({**asked, "device": "cpu", "samples": 3, "output": tmp_path / "out"})

    [result] = sweep([job])

    assert not isinstance(result, Exception), result
    assert result["meta"]["revisions"] == {"model": OTHER, "data": {"pope": COMMIT}}
    assert result["benchmarks"]["pope"]["prompt"].startswith("USER: <image>\nIs there a ")
    template = (checkpoint / "chat_template.jinja").read_text()
    assert result["meta"]["hashes"]["template"] == hashlib.sha256(template.encode()).hexdigest()
    assert hub.asked == []


def test_a_checkpoint_is_found_by_its_commit_too(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        **folder_files(checkpoint),
        "pytorch_model.bin": b"pickled",
        "original/consolidated.pth": b"pickled",
    }
    hub.add(Repo("model", "org/tiny", files))

    found = fetch(tmp_path, model="org/tiny", revision=COMMIT)

    names = [file["path"] for file in found["parts"][0]["files"]]
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pth")) for name in names)
    assert not any(name.endswith((".bin", ".pth")) for name in hub.fetched)
    switch_off(hub, monkeypatch)
    assert locate("org/tiny", COMMIT).name == COMMIT
    with pytest.raises(DyrateError, match="no such folder, and the hub gave nothing"):
        locate("org/tiny", OTHER)


def test_pickled_weights_alone_are_refused(hub: FakeHub) -> None:
    hub.add(Repo("model", "org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickled"}))
    with pytest.raises(
        HubError, match=r"model org/old: has no \*.safetensors; pickled weights are not loaded"
    ):
        wanted_model("org/old")
    assert [one.path for one in wanted_model("org/old", whole=True).parts[0][1]] == [
        "config.json",
        "pytorch_model.bin",
    ]


def test_a_broken_connection_is_taken_up_where_it_broke(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    hub.add(pope(data))
    name = "data/test-00000-of-00002.parquet"
    hub.cuts[name] = 2

    fetch(tmp_path, benchmark="pope")

    size = len(hub.repos[f"datasets/{POPE}"].files[name])
    assert len(hub.ranges) == 2
    assert all(int(asked.removeprefix("bytes=").rstrip("-")) > 0 for asked in hub.ranges)
    assert hub.sent[name] < 1.6 * size  # and not twice from the beginning


def test_what_came_before_a_failure_stays(
    hub: FakeHub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(pope(data))
    first, second = (f"data/test-0000{number}-of-00002.parquet" for number in (0, 1))
    hub.cuts[second] = 100
    with pytest.raises(HubError, match="cannot be reached"):
        fetch(tmp_path, benchmark="pope")
    assert not (tmp_path / "hub" / "pope.json").exists()
    hub.cuts.clear()
    sent = hub.sent[first]

    fetch(tmp_path, benchmark="pope")

    assert hub.sent[first] == sent


def test_a_hub_that_is_busy_is_asked_again(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    hub.add(pope(data))
    fetch(tmp_path, benchmark="pope")
    hub.refusals = [503, 429]
    assert wanted_again(hub).commit == COMMIT
    assert hub.refusals == []


def wanted_again(hub: FakeHub) -> Any:
    return wanted(Fetch.of({"benchmark": "pope", "output": "none.json"}))


@pytest.mark.parametrize(
    ("change", "token", "message"),
    [
        (
            {"gated": True},
            None,
            r"POPE: is gated; log in with `hf auth login`, or set HF_TOKEN, and accept its",
        ),
        (
            {"gated": True, "forbidden": True},
            TOKEN,
            r"POPE: is gated; accept its conditions at http.*/datasets/lmms",
        ),
        ({"forbidden": True}, TOKEN, r"POPE: the token may not read it \(403\); let the token read it"),
        ({}, "hf_wrong", r"POPE: the token is not accepted \(401\); log in with `hf auth login`"),
        ({"commit": OTHER}, None, r"POPE at 0123456789ab: has no such revision; the commits are at http"),
        ({"name": "org/else"}, None, r"POPE at 0123456789ab: is not there, or is private; log in"),
    ],
)
def test_what_does_not_come_is_told_with_its_cure(
    hub: FakeHub,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    token: str | None,
    message: str,
) -> None:
    repo = pope(data)
    for name, value in change.items():
        setattr(repo, name, value)
    hub.add(repo)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    revision = {"revision": COMMIT} if "commit" in change or "name" in change else {}
    with pytest.raises(HubError, match=message):
        wanted(Fetch.of({"benchmark": "pope", "output": "none.json", **revision}))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, r"http.* fails \(500\); try again later"),
        (429, r"the hub has had too many requests \(429\); wait some minutes"),
    ],
)
def test_a_hub_that_stays_busy_is_told(hub: FakeHub, data: Path, status: int, message: str) -> None:
    hub.add(pope(data))
    hub.down = status
    with pytest.raises(HubError, match=f"POPE: {message}"):
        wanted_again(hub)


def test_a_hub_that_is_not_there_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HubError, match=r"http://127.0.0.1:9 cannot be reached \(.*check network and proxy"
    ) as told:
        wanted_again(hub)
    assert not told.value.reachable


def test_with_the_hub_switched_off_what_is_missing_is_told(
    hub: FakeHub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off(hub, monkeypatch)
    with pytest.raises(
        HubError, match=r"is not in the cache .*, and HF_HUB_OFFLINE is set; fetch it where there is"
    ):
        wanted_again(hub)
    with pytest.raises(
        DyrateError, match=r"pope.json: no such file; `dyrate fetch --benchmark pope --output"
    ):
        load_tasks(select(["pope"]), "hub", tmp_path, None)


def test_other_bytes_than_announced_are_refused(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    hub.add(pope(data))
    hub.spoiled = {"data/test-00001-of-00002.parquet"}
    with pytest.raises(HubError, match=r"test-00001-of-00002.parquet: came with other bytes than announced"):
        fetch(tmp_path, benchmark="pope")


def test_a_cache_that_has_lost_a_file_is_told_and_fetched_again(
    hub: FakeHub, data: Path, tmp_path: Path
) -> None:
    hub.add(pope(data))
    found = fetch(tmp_path, benchmark="pope")
    (path, _) = record.paths(found)
    path.resolve().unlink()
    with pytest.raises(HubError, match=r"test-00000-of-00002.parquet of 0123456789ab: is not in the cache"):
        load_tasks(select(["pope"]), "hub", tmp_path / "hub", None)
    assert fetch(tmp_path, benchmark="pope") == found
    assert path.exists()


def test_a_record_of_another_commit_is_made_anew(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    hub.add(pope(data))
    fetch(tmp_path, benchmark="pope")
    hub.add(pope(data, commit=OTHER))
    assert fetch(tmp_path, benchmark="pope")["commit"] == COMMIT  # once
    assert fetch(tmp_path, benchmark="pope", revision=OTHER)["commit"] == OTHER


def test_a_split_that_is_not_there_is_told(hub: FakeHub, data: Path) -> None:
    repo = pope(data)
    repo.files["README.md"] = card({"default": {"extra": "data/extra-*"}})
    hub.add(repo)
    with pytest.raises(
        HubError, match="POPE at 0123456789ab: split test: is not there; splits: extra; see http"
    ):
        wanted(Fetch.of({"benchmark": "pope", "output": "none.json", "revision": COMMIT}))


def test_the_command_says_what_came(
    hub: FakeHub, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(pope(data))
    command = ["fetch", "--benchmark", "pope", "--output", str(tmp_path / "pope.json")]
    assert main(command) == 0
    assert f"{POPE} at {COMMIT}: 0.00 GB\n" in capsys.readouterr().out
    assert main(command) == 0
    assert "(there already)" in capsys.readouterr().out
    assert main([*command, "--revision", "main"]) == 2
    assert "'main' is no commit of 40 hexadecimal digits" in capsys.readouterr().err


@pytest.mark.slow
def test_the_environment_says_which_hub_and_where_the_cache_is(data: Path, tmp_path: Path) -> None:
    with serving() as hub:
        hub.add(pope(data, gated=True))
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
        output = tmp_path / "pope.json"
        command = [
            sys.executable,
            "-m",
            "dyrate.cli",
            "fetch",
            "--benchmark",
            "pope",
            "--output",
            str(output),
        ]

        def run(**change: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, env=environment | change, capture_output=True, text=True, check=False
            )

        assert run().returncode == 0
        assert json.loads(output.read_text())["commit"] == COMMIT
        assert (tmp_path / "home" / "hub" / "datasets--lmms-lab-encoder--POPE").is_dir()
        asked = len(hub.asked)
        assert run(HF_HUB_OFFLINE="1").returncode == 0
        assert len(hub.asked) == asked
        output.unlink()
        done = run(HF_HUB_OFFLINE="1")
        assert done.returncode == 2
        assert "and HF_HUB_OFFLINE is set; fetch it where there is a network" in done.stderr
