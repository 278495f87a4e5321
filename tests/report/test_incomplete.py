"""What is missing of a study is marked, listed and told, in tables and page; nothing else is lost with it."""

import csv
import os
from pathlib import Path

import pytest

from dyrate.analysis.contents import gather
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.analysis.reasons import last_words, why
from dyrate.bench import study_jobs as timing
from dyrate.cli import main
from dyrate.evaluation import answers, results
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.hub.record import write_absence
from dyrate.evaluation.intervals import RESAMPLES
from dyrate.evaluation.placement import settled
from dyrate.evaluation.results import ResultFiles
from dyrate.evaluation.scoring import differences
from dyrate.look import study_jobs as surviving
from dyrate.look.record import partial
from dyrate.look.record import write as write_look
from dyrate.report import provenance
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.look.test_page import survival
from tests.report import fake


def job_of(study, slug, model="testbed-s"):
    (job,) = (job for job in study.jobs if job.key[:2] == (model, slug))
    return job


def lose(study, slug, said=None, model="testbed-s"):
    """A job without result, whose log holds what it said."""
    job = job_of(study, slug, model)
    files = ResultFiles.beside(Path(job.result))
    files.remove()
    if said is not None:
        log = Path(study.log(*job.key))
        log.parent.mkdir(parents=True)
        log.write_text(said)
    return job


def write(study):
    Path("study.json").write_text(study.to_json())
    return "study.json"


def rows(table):
    return list(csv.DictReader(Path("out", f"{table}.csv").read_text().splitlines()))


def older(paths):
    """As old as if jobs had made them before the results."""
    for path in paths:
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def made(study, tmp_path):
    fake.write_study(study, tmp_path, asked=True)
    older(study.data_files)
    return study


@pytest.mark.slow
def test_a_failed_jobs_row_stands_in_its_place_and_costs_no_other(made, capsys):
    before = main(["tables", "--study", write(made), "--output", "out"])
    whole = rows("table1")
    lose(made, "fastv-layer=2-rate=0.5", "loading\ndyrate: error: the <b>GPU</b> has no memory\n")

    assert (before, main(["tables", "--study", "study.json", "--output", "out"])) == (0, 1)

    lost = [row for row in rows("table1") if row["missing"]]
    assert {(row["model"], row["method"]) for row in lost} == {("testbed-s", "FastV (K=2, R=0.5)")}
    assert {row["published_row"] for row in lost} == {"FastV"}
    assert [row["benchmark"] for row in lost] == list(dict.fromkeys(row["benchmark"] for row in lost))
    assert len(lost) == len([name for name in made.benchmarks if BENCHMARKS[name].group != "caption"])
    log = "results/testbed/logs/testbed-s/fastv-layer=2-rate=0.5/greedy.log"
    assert {row["missing"] for row in lost} == {f"the <b>GPU</b> has no memory ({log})"}
    assert [row for row in rows("table1") if row["value"]] == [
        row
        for row in whole
        if row["value"] and (row["model"], row["published_row"]) != ("testbed-s", "FastV")
    ]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dyrate: missing: ")]
    assert told == [
        "dyrate: missing: testbed-s, FastV (K=2, R=0.5), greedy: all of it: "
        f"{', '.join(made.benchmarks)}: the <b>GPU</b> has no memory ({log})"
    ]
    (listed,) = rows("missing")
    assert "FastV" in listed["what"]

    assert main(["report", "--study", "study.json", "--output", "index.html"]) == 1
    front, page = (Path(name).read_text() for name in ("index.html", "results.html"))
    assert front.index("Not complete.") < front.index("What was found")
    assert page.index("Not complete.") < page.index('id="verdicts"')
    assert "1 thing is missing" in front
    assert page.count('title="the &lt;b&gt;GPU&lt;/b&gt; has no memory') >= len(made.benchmarks)
    assert "<b>GPU</b>" not in front + page


def test_what_one_reason_took_is_told_once(made):
    for model in ("testbed-s", "testbed-m"):
        for method in ("fastv-layer=2-rate=0.5", "none"):
            lose(made, method, model=model)

    assert main(["report", "--study", write(made), "--output", "index.html"]) == 1

    front = Path("index.html").read_text()
    assert front.count("no job has begun to make it: it was stopped before") == 2  # and the unpruned models
    assert "2 things</b>: no job has begun" in front


def lose_some(study, slug, failed):
    """A job that failed on some benchmarks, by their names, with what it said of each."""
    files = ResultFiles.beside(Path(job_of(study, slug).result))
    found = results.read(files.result)
    kept = {name: one for name, one in found["benchmarks"].items() if name not in failed}
    results.write(files.partial.result, {**found, "benchmarks": kept, "failed": failed})
    files.remove()


def test_a_failed_benchmark_costs_one_cell(made):
    failed = {"pope": "task pope (lmms-lab-encoder/POPE): the data cannot be read"}
    lose_some(made, "vtw-layer=4", failed)

    assert main(["tables", "--study", write(made), "--output", "out"]) == 1

    vtw = {
        row["benchmark"]: row
        for row in rows("table1")
        if row["method"].startswith("VTW") and row["model"] == "testbed-s"
    }
    assert {name: row["missing"] for name, row in vtw.items() if row["missing"]} == failed
    assert vtw["gqa"]["value"]
    assert vtw["pope"]["published"]
    assert not vtw["pope"]["value"]
    assert vtw["gqa"]["result"].endswith("greedy.partial.json")
    assert [row["why"] for row in rows("missing")] == [failed["pope"]]


def test_a_benchmark_that_the_unpruned_model_lacks_costs_differences_there_alone(made):
    lose_some(made, "none", {"pope": "no such data"})

    main(["tables", "--study", write(made), "--output", "out"])

    (listed,) = (row for row in rows("missing") if ", Unpruned, " in row["what"])
    assert listed["why"] == "no such data; so no row of this model has a difference to it there"
    mine = [
        row for row in rows("table1") if row["model"] == "testbed-s" and row["method"].startswith("FastV (")
    ]
    assert mine
    assert all(row["difference"] for row in mine if row["benchmark"] != "pope")


def test_the_unpruned_model_missing_costs_the_differences(made):
    lose(made, "none", "Traceback (most recent call last):\n  ...\nRuntimeError: CUDA error\n")
    for job in made.jobs:
        if job.model.name == "testbed-s" and Path(job.result).exists():  # as the study's jobs leave them
            found = results.read(job.result)
            for one in found["benchmarks"].values():
                one["difference"] = None
            results.write(job.result, found)

    assert main(["tables", "--study", write(made), "--output", "out"]) == 1

    fastv = [row for row in rows("table1") if row["method"] == "FastV (K=2, R=0.5)"]
    assert all(row["value"] for row in fastv)
    assert {bool(row["difference"]) for row in fastv if row["model"] == "testbed-s"} == {False}
    assert {bool(row["difference"]) for row in fastv if row["model"] == "testbed-m"} == {True}
    (listed,) = rows("missing")
    assert "RuntimeError: CUDA error (results/testbed/logs" in listed["why"]
    assert listed["why"].endswith("so no row of this model has a difference to it")


def test_with_nothing_measured_there_is_a_page_that_says_so(study, tmp_path):
    measurements = load(study)

    assert not any(m.measured for m in measurements)
    page = report_pages(study, measurements)["index.html"]
    assert f"{len(study.jobs)} things are missing" in page
    assert "no job has begun to make it: it was stopped before, or lost before its first word" in page
    assert ".snakemake/slurm_logs" in page
    assert main(["tables", "--study", write(study), "--output", "out"]) == 1


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latency = {"benchmark": "nocaps"}
    study = Study.of(
        {
            **fake.WITH_DYRATE,
            "models": fake.CONFIG["models"][:1],
            "latency": latency,
            "methods": [one for one in fake.WITH_DYRATE["methods"] if one.get("models") != ["testbed-m"]],
        }
    )
    fake.write_study(study, tmp_path, asked=True)
    older([*study.data_files, *(path for predictor in study.trainings for path in predictor.files)])
    return study


def test_dyrate_without_its_training_is_missing_with_the_reason_and_others_keep_their_times(trained):
    lost = [predictor for predictor in trained.trainings if predictor.name == "default"]
    for path in lost[0].files:
        Path(path).unlink()
    log = Path(trained.log("testbed-s", "train_predictor", "default"))
    log.parent.mkdir(parents=True)
    log.write_text("dyrate: error: data/paper/train.jsonl: no such file\n")

    assert main(["tables", "--study", write(trained), "--output", "out"]) == 1

    third = [row for row in rows("table3") if row["model"]]
    dyrate = [row for row in third if row["method"].startswith("dyrate")]
    assert [row["missing"] for row in dyrate] == [
        "what is there was made before results/testbed/predictors/testbed-s/default/predictor.json; "
        f"its predictor default is not trained: data/paper/train.jsonl: no such file ({log})"
    ]
    fastv = next(row for row in third if row["method"] == "FastV (K=2, R=0.5)")
    assert fastv["latency_ms"]
    assert not fastv["missing"]
    assert sum(row["what"] == "times of testbed-s+trained, Table III" for row in rows("missing")) == 1


def test_a_row_whose_evaluation_failed_keeps_its_time(trained):
    lose(trained, "fastv-layer=2-rate=0.5")

    assert main(["tables", "--study", write(trained), "--output", "out"]) == 1

    (fastv,) = [row for row in rows("table3") if row["method"] == "fastv (layer=2, rate=0.5)"]
    assert fastv["latency_ms"]
    assert fastv["missing"]


def test_latencies_of_methods_that_wait_for_a_training_are_apart(trained):
    assert {name: [job.method.name for job in jobs] for name, jobs in timing.timed(trained).items()} == {
        "testbed-s": ["none", "fastv", "fastv", "vtw"],
        "testbed-s+trained": ["dyrate"],
    }
    jobs = timing.timed(trained)["testbed-s+trained"]
    assert timing.job(trained, jobs[0].model, jobs).output == Path(
        "results/testbed/latency/testbed-s+trained.json"
    )


OTHERWISE = {
    "settings": (
        lambda found: found["meta"].update(command="dyrate evaluate --samples 3"),
        "with other settings",
    ),
    "code": (lambda found: found["meta"].update(hashes={"code": "0"}), "with other code"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_result_that_would_have_been_made_anew_is_not_shown(made, what):
    change, reason = OTHERWISE[what]
    lose(made, "random-layer=2-rate=0.5")
    path = Path(job_of(made, "vtw-layer=4").result)
    found = results.read(path)
    change(found)
    results.write(path, found)

    (vtw,) = (m for m in load(made) if m.job.result == str(path))

    assert not vtw.measured
    assert reason in vtw.missing["gqa"]


def test_a_result_older_than_its_data_is_not_shown_where_others_are_missing(made):
    lose(made, "random-layer=2-rate=0.5")
    later = Path(made.jobs[0].result).stat().st_mtime + 60
    os.utime(made.data_files[0], (later, later))

    assert not any(m.measured for m in load(made) if m.job.method.benchmarks[0] in made.data_files[0])


def test_differences_are_those_of_an_evaluation_with_a_baseline(made):
    measurements = load(made)
    none, fastv = (
        next(m for m in measurements if m.job is job_of(made, s)) for s in ("none", "fastv-layer=2-rate=0.5")
    )
    for one in fastv.result["benchmarks"].values():
        one["difference"] = None

    Answers(made.config["seed"]).compare(measurements)

    mine, theirs = (answers.read(m.files.answers) for m in (fastv, none))
    for name, one in fastv.result["benchmarks"].items():
        whole = differences(BENCHMARKS[name], mine[name], theirs[name], made.config["seed"], RESAMPLES)
        assert one["difference"] == {one["primary"]: whole[one["primary"]]}, name
    assert not fastv.uncompared


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "dtype", "data", "prompts", "answers"])
def test_what_cannot_be_compared_is_not_and_is_listed(made, what, capsys):
    job = job_of(made, "fastv-layer=2-rate=0.5")
    files = ResultFiles.beside(Path(job.result))
    found = results.read(files.result)
    found["benchmarks"]["gqa"]["difference"] = None
    if what in ("weights", "data"):
        found["meta"]["hashes"] = {"weights": "other"} if what == "weights" else {"data": {"gqa": "other"}}
    if what == "dtype":
        found["meta"]["dtype"] = "bfloat16"
    results.write(files.result, found)
    if what == "prompts":
        samples = answers.read(files.answers)
        for sample in samples["gqa"]:
            sample.prompt = "another question"
        answers.write(files.answers, samples)
    if what == "answers":
        files.answers.unlink()
    files.run.unlink()

    assert main(["tables", "--study", write(made), "--output", "out"]) == 1

    reasons = {
        "weights": "its weights have the hash other, the unpruned model's None",
        "dtype": "it ran in bfloat16, the unpruned model in float32",
        "data": "its data have the hash other, the unpruned model's None",
        "prompts": "the two were not asked the same",
        "answers": f"there is no {files.answers}",
    }
    (listed,) = rows("missing")
    assert listed["why"] == reasons[what]
    assert "the difference to the unpruned model on gqa" in listed["what"]
    (cell,) = [row for row in rows("table1") if (row["result"], row["benchmark"]) == (job.result, "gqa")]
    assert cell["value"]
    assert not cell["difference"]


SAID = {
    "": "it ended without a word",
    "loading\n 40%|####": "it ended without a word",
    "dyrate: error: a/none.json: first\ndyrate: error: a/x.json: second\n": "second (",
    "dyrate: error: a/none.json: first\n": "it ended without a word",
    "dyrate: error: models/config.json: damaged\n": "models/config.json: damaged (",
    "Traceback (most recent call last):\n  File\nKeyError: 'x'\n": "KeyError: 'x' (",
}


@pytest.mark.parametrize("said", SAID)
def test_the_last_words_of_a_job_are_found(tmp_path, said):
    log = tmp_path / "x.log"
    log.write_text(said)

    found = last_words(str(log), "a/x.json", ["a/none.json"])

    assert found.startswith(SAID[said])
    assert found.endswith(f"({log})")


def test_missing_traces_and_parts_of_them_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.of({**fake.CONFIG, "trace": {"benchmarks": ["gqa", "nocaps"], "samples": 2}})
    fake.write_study(study, tmp_path)

    found = gather(study, load(study)).missing

    assert [one.what for one in found] == ["trace of testbed-s", "trace of testbed-m"]


def look_of(title):
    mass = {"sys": 0.25, "img": 0.25, "ins": 0.25, "res": 0.25}
    answer = {
        "method": {"name": "none"}, "label": "Unpruned", "text": "a", "prefill": 1.0, "decode": None,
        "sets": [[0]], "steps": [{"word": "a", "mass": mass, "rate": 0.0, "sets": [0]}],
        "kv_bytes": 8, "kv_bytes_whole": 8, "notes": [],
    }  # fmt: skip
    picture = {"webp": "a", "rows": 1, "columns": 1, "places": [[0, 0]]}
    asked = {"title": title, "question": "q", "references": [], "visual_tokens": 1}
    return {**asked, "picture": picture, "answers": [answer]}


@pytest.mark.slow
def test_answers_that_token_survival_lacks_are_listed_and_the_status_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    looked = {"benchmarks": ["gqa"], "samples": 2, "methods": ["fastv"]}
    few = {"models": fake.CONFIG["models"][:1], "methods": fake.CONFIG["methods"][:2]}
    study = Study.of({**fake.CONFIG, **few, "survival": looked})
    fake.write_study(study, tmp_path)
    Path("study.json").write_text(study.to_json())
    tables = ["tables", "--study", "study.json", "--output", "t"]
    path = Path(surviving.record(study, "testbed-s"))

    assert main(tables) == 1
    assert "missing: token survival of testbed-s: no job has begun to make it" in capsys.readouterr().err

    ((model, jobs),) = surviving.survivals(study).items()
    asked = settled(surviving.job(study, jobs[0].model, jobs)).command()
    failed = {"FastV (K=3, R=0.5)": "no memory"}
    looks = [look_of("a"), {**look_of("b"), "failed": failed}, {**look_of("c"), "failed": failed}]
    write_look(partial(path), {**survival(*looks), "study": study.name, "model": model, "command": asked})
    assert surviving.drawable(study) == [str(partial(path))]
    assert main(tables) == 1
    (line,) = csv.DictReader(Path("t/missing.csv").read_text().splitlines())
    assert line == {"what": "token survival of testbed-s: FastV (K=3, R=0.5) on b; c", "why": "no memory"}

    write_look(path, survival(look_of("a")))
    assert main(tables) == 0


def test_a_complete_study_lists_nothing(pages):
    page = "".join(pages.values())
    assert "Not complete" not in page
    assert 'class="missing"' not in page


@pytest.mark.parametrize(
    ("there", "what", "log"),
    [("pope.json", "data", "gqa"), ("pope.json gqa.json", "model", "models/a")],
)
def test_what_was_not_fetched_is_told_by_its_own_log(tmp_path, monkeypatch, there, what, log):
    monkeypatch.chdir(tmp_path)
    study = Study.of(
        {
            "study": "small",
            "tasks": "hub",
            "models": [{"name": "a", "path": "owner/a"}],
            "methods": [{"name": "none"}],
            "benchmarks": ["pope", "gqa"],
        }
    )
    path = Path(f"results/small/logs/fetch/{log}.log")
    path.parent.mkdir(parents=True)
    path.write_text("dyrate: error: it is gated; log in\n")
    for name in there.split():
        (tmp_path / study.hub).mkdir(parents=True, exist_ok=True)
        (tmp_path / study.hub / name).touch()

    assert why(study, study.jobs[0]) == f"its {what} is not there: it is gated; log in ({path})"


def test_data_that_did_not_come_stands_among_the_failed_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {name: value for name, value in fake.CONFIG.items() if name != "data"}
    study = Study.of({**config, "tasks": "hub"})
    name, other = study.benchmarks[:2]
    Path(study.hub).mkdir(parents=True)
    write_absence(Path(study.hub, f"{name}.json"), "the hub fails (503)")
    Path(study.hub, f"{other}.json").write_text("{")  # a damaged record is its own job's affair
    log = Path(study.log("fetch", name))
    log.parent.mkdir(parents=True)
    log.write_text("dyrate: error: the hub fails (503)\n")

    assert provenance.failures(study, []) == (
        provenance.Failure(
            f"Fetching {name}", "the hub fails (503)", str(log), "dyrate: error: the hub fails (503)"
        ),
    )
