"""The page as a browser sees it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.answers import read as read_answers
from dyrate.evaluation.answers import write as write_answers
from dyrate.evaluation.results import ResultError
from dyrate.report import gallery
from dyrate.report.page import report_pages, table_page
from dyrate.report.site import FIGURES, PAGES
from dyrate.study import Study
from tests.report import fake

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = (
    '</td></script><script>document.title="run"</script><img src=x onerror=\'document.title="run"\'>$\\frac'
)


def text_of(page: str) -> str:
    """The text that a reader sees, without markup."""
    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append
    parser.feed(page)
    return " ".join(" ".join(parts).split())


@pytest.mark.parametrize("file", PAGES)
def test_every_page_says_first_that_its_figures_are_not_the_papers(pages, file):
    top = text_of(pages[file].partition("</header>")[0])

    assert "Measured figures on this page are not those of LLaVA-1.5 on the real benchmarks." in top
    assert "study testbed" in top
    assert "never in value" in top


REAL, SYNTHETIC = "Measured on the real benchmarks.", "synthetic scenes"


def hub_study(study, **changes):
    """The same study on the hub's tasks, with results of its own."""
    hub = Study.of({**study.config, "study": "hub-study", "tasks": "hub", **changes})
    fake.write_study(hub, Path())
    return hub


def test_only_the_hubs_tasks_are_called_the_real_benchmarks(small):
    study, _ = small
    hub = hub_study(study)
    text = text_of(report_pages(hub, load(hub))["index.html"])

    assert REAL in text
    assert SYNTHETIC not in text


@pytest.mark.slow
@pytest.mark.parametrize("tasks", ["hub", "folder"])
def test_of_tasks_that_it_does_not_know_the_page_claims_nothing(small, tasks):
    study, _ = small
    Path("folder").mkdir()
    hub = hub_study(study, tasks=tasks)
    if tasks == "hub":
        path = Path(hub.results[1])
        result = json.loads(path.read_text())
        result["benchmarks"]["gqa"]["task"] = "their_gqa"
        path.write_text(json.dumps(result))

    text = text_of(report_pages(hub, load(hub))["index.html"])

    assert "need not be on the paper’s benchmarks" in text
    assert REAL not in text
    assert SYNTHETIC not in text


def test_a_result_of_another_study_is_refused(small):
    study, _ = small
    hub = hub_study(study, external=[study.results[0]])

    with pytest.raises(ResultError) as refused:
        load(hub)

    assert "study: is 'smoke', but the study that lists it is 'hub-study'" in str(refused.value)
    assert "benchmarks.gqa.task: 'gqa_testbed' has other data than study 'hub-study'" in str(refused.value)


def test_a_result_on_real_benchmarks_is_refused_among_the_testbeds(small):
    study, _ = small
    hub = hub_study(study)
    theirs = {**json.loads(Path(hub.results[0]).read_text()), "study": study.name}
    Path("theirs.json").write_text(json.dumps(theirs))

    with pytest.raises(ResultError, match=r"theirs.json: benchmarks.pope.task: 'pope' has other data"):
        load(Study.of({**study.config, "external": ["theirs.json"]}))


def test_a_result_in_another_jobs_place_is_refused(small):
    study, (first, *others) = small
    for other in others:
        whole = other.files.result.read_bytes()
        other.files.result.write_bytes(first.files.result.read_bytes())
        with pytest.raises(
            ResultError, match=r"method: is .*'none'.*, but this is the place of .*was it copied"
        ):
            load(study)
        other.files.result.write_bytes(whole)
    load(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(model="other"), "model: is 'other', but this is the place of 'testbed-s'"),
        (lambda r: r["decoding"].update(name="beam-2"), "decoding: is .*beam-2"),
        (lambda r: r["benchmarks"].pop("gqa"), "benchmarks: is .*, but this is the place of"),
        (lambda r: r["method"].update(rate=0.75), "method: is .*0.75.*, but this is the place of .*0.5"),
        (lambda r: r["meta"].update(command="dyrate evaluate --method vtw"), None),
        (
            lambda r: r["meta"].update(command=r["meta"]["command"].replace("{", '{"mode": "evict", ')),
            "method: is .*evict",
        ),
    ],
)
def test_a_result_says_the_same_as_its_place(small, change, message):
    study, measurements = small
    path = next(m.files.result for m in measurements if m.method == "fastv")
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))
    with nullcontext() if message is None else pytest.raises(ResultError, match=message):
        load(study)


def theirs(study, **score):
    """A sound result of another producer on one benchmark, with changes of its score."""
    result = json.loads(Path(study.results[0]).read_text())
    result |= {"method": {"name": "theirs"}, "label": "Theirs"}
    gqa = {**result["benchmarks"]["gqa"], "difference": None, "visual_tokens": None}
    gqa["scores"] = {
        "exact_match": {**gqa["scores"]["exact_match"], "value": 50, "low": 40, "high": 60, **score}
    }
    return {**result, "benchmarks": {"gqa": gqa}}


@pytest.mark.parametrize(
    ("score", "change", "message"),
    [
        ({}, {}, None),
        ({}, {"model": "elsewhere", "label": "Unpruned", "method": {"name": "none"}}, None),
        ({"value": 150, "high": 160}, {}, r"exact_match\.value: 150 is not between 0 and 100 percent"),
        ({"low": -2}, {}, r"exact_match\.low: -2 is not between"),
        ({"value": 61}, {}, "value: 61 is outside of its interval, 40 to 60"),
        ({"unit": "x100"}, {}, "unit: is 'x100'; this metric's is 'percent'"),
        ({"higher_is_better": False}, {}, "higher_is_better: is False"),
        ({}, {"method": {"name": "none"}}, "the study itself has a row of {'name': 'none'} on 'testbed-s'"),
        ({}, {"method": {"name": "fastv", "rate": 0.5}}, "the study itself has a row of"),
        ({}, {"label": "fastv  (k=2, R=0.5)"}, "the study itself has a row 'fastv"),
    ],
)
def test_results_of_other_producers_are_held_to_what_can_be(small, score, change, message):
    study, _ = small
    Path("theirs.json").write_text(json.dumps({**theirs(study, **score), **change}))
    with nullcontext() if message is None else pytest.raises(ResultError, match=message):
        load(Study.of({**study.config, "external": ["theirs.json"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["benchmarks"].update(gqb=r["benchmarks"]["gqa"]), "gqb: there is no such benchmark"),
        (lambda r: r["benchmarks"]["gqa"].update(units=101), "units: 101 of 100 samples"),
        (
            lambda r: r["benchmarks"].update(pope=r["benchmarks"]["gqa"]),
            "pope.primary: is 'exact_match'; this benchmark's is 'accuracy'",
        ),
    ],
)
def test_benchmarks_of_other_producers_are_ours(small, change, message):
    study, _ = small
    result = theirs(study)
    change(result)
    for name in ("one.json", "two.json"):
        Path(name).write_text(json.dumps(result))
    with pytest.raises(ResultError, match=message) as refused:
        load(Study.of({**study.config, "external": ["one.json", "two.json"]}))
    assert "two.json: method: one.json has a row of {'name': 'theirs'} on 'testbed-s'" in str(refused.value)


def test_the_front_page_says_where_the_figures_come_from(pages):
    header = text_of(pages["index.html"]).partition("What was found")[0]

    for fact in (
        "testbed-s, testbed-m",
        "greedy",
        "100",
        "cpu, float32",
        "2026-01-15",
        "0123456789ab",
        "torch 2.13.0",
    ):
        assert fact in header, fact


def test_each_measured_row_links_to_its_command(pages):
    page = pages["results.html"]
    links, ids = (
        re.findall(r'href="#(command-[^"]+)"', page),
        re.findall(r'<details id="(command-[^"]+)"', page),
    )

    assert len(links) == 3 * 16
    assert set(links) == set(ids)
    assert text_of(page).count("dyrate evaluate --model models/testbed-s") == 3 * 8


@pytest.mark.parametrize("file", PAGES)
def test_ids_are_unique(pages, file):
    ids = re.findall(r'\sid="([^"]+)"', pages[file])

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("file", PAGES)
def test_a_page_asks_for_nothing_but_the_pages_beside_it(pages, file):
    page = pages[file]
    addresses = re.findall(r'(?:src|href)="(?!#|data:)([^"#]*)[^"]*"', page)
    figures = [address for address in addresses if address.startswith(f"{FIGURES}/")]
    assert {*addresses} - {*figures} <= set(PAGES)
    assert all(re.fullmatch(rf"{FIGURES}/[\w.-]+\.(svg|pdf|csv)", figure) for figure in figures)
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)[^)]*\)", page)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == page.count("<script")
    (ours,) = [text for attributes, text in scripts if "application/json" not in attributes]
    digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in page


def test_the_index_of_every_page_leads_to_every_other(pages):
    assert list(pages) == list(PAGES)
    empty = {"attention.html", "budget.html"}  # nothing was traced, and there is no DyRate
    for file, page in pages.items():
        links = re.findall(r'href="([a-z]+\.html)"( aria-current="page")?>', page.partition("</nav>")[0])
        assert [name for name, _ in links] == [name for name in PAGES if name not in empty]
        assert [name for name, current in links if current] == ([] if file in empty else [file])


@pytest.mark.slow
def test_the_page_of_token_survival_is_linked_where_it_is_given(small):
    study, _ = small
    Path("study.json").write_text(study.to_json())
    Path("there.html").write_text("")
    command = ["report", "--study", "study.json", "--output", "reports/x/index.html"]

    assert main([*command, "--survival", "there.html"]) == 0
    assert 'href="../../there.html">Token survival' in Path("reports/x/cost.html").read_text()
    assert main(command) == 0
    assert "Token survival" not in Path("reports/x/cost.html").read_text()
    assert {path.name for path in Path("reports/x").iterdir()} == {*PAGES, FIGURES}


@pytest.mark.slow
def test_the_page_is_the_same_each_time(small):
    study, measurements = small

    assert report_pages(study, load(study)) == report_pages(study, measurements)


def test_the_summary_counts_verdicts(small):
    study, _ = small
    path = Path("results/smoke/testbed-s/fastv-layer=2-rate=0.5/greedy.json")
    result = json.loads(path.read_text())
    for i, found in enumerate(result["benchmarks"].values()):
        value = {0: -3.0, 1: 3.0}.get(i, -0.5)
        found["difference"] = {found["primary"]: {"value": value, "low": value - 1, "high": value + 1}}
    path.write_text(json.dumps(result))

    text = text_of(report_pages(study, load(study))["results.html"])

    assert (
        "FastV (K=2, R=0.5) : lower on 1 of 11 benchmarks, higher on 1 (n = 25 to 100); "
        "its layers see 62% at prefill"
    ) in text


def test_where_all_samples_score_alike_no_difference_is_shown(small):
    study, _ = small
    path = Path("results/smoke/testbed-s/fastv-layer=2-rate=0.5/greedy.json")
    result = json.loads(path.read_text())
    for i, found in enumerate(result["benchmarks"].values()):
        one = {"value": -3.0, "low": -4.0, "high": -2.0} if i else {"value": 0.0, "low": None, "high": None}
        found["difference"] = {found["primary"]: one}
    path.write_text(json.dumps(result))

    page = report_pages(study, load(study))["results.html"]

    assert "FastV (K=2, R=0.5) : lower on 10 of 11 benchmarks" in text_of(page)
    assert 'aria-label="not compared"' not in page


def test_where_no_interval_excludes_zero_no_loss_is_not_said_to_be_none(small):
    study, _ = small
    path = Path("results/smoke/testbed-s/fastv-layer=2-rate=0.5/greedy.json")
    result = json.loads(path.read_text())
    for found in result["benchmarks"].values():
        found["difference"] = {found["primary"]: {"value": -1.0, "low": -2.0, "high": 1.0}}
    path.write_text(json.dumps(result))

    assert "no loss could be shown (n = 25 to 100)" in text_of(
        report_pages(study, load(study))["results.html"]
    )


def test_the_way_to_reproduce_is_the_config_on_the_page(small):
    study, _ = small
    changed = Study.of({**study.config, "samples": 7})  # as by --config samples=7
    fake.write_study(changed, Path())

    text = text_of(report_pages(changed, load(changed))["provenance.html"])

    assert "config below saved as study.yaml" in text
    assert "--configfile study.yaml" in text
    assert "samples: 7" in text.partition("Reproduce The whole study")[2]
    assert "config/smoke.yaml" not in text


@pytest.mark.parametrize(
    ("command", "output", "complaint"),
    [
        ("tables", "file", "--output file: cannot be made a folder: File exists"),
        ("report", "file/index.html", "--output file: cannot be made a folder: File exists"),
        ("report", "folder", "folder is a folder; name the page"),
        ("report", "new/cost.html", "new/cost.html is a page beside the front page; name another"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_clear_line(small, capsys, command, output, complaint):
    study, _ = small
    Path("study.json").write_text(study.to_json())
    Path("file").write_text("")
    Path("folder").mkdir()

    assert main([command, "--study", "study.json", "--output", output]) == 2
    assert complaint in capsys.readouterr().err


def test_a_study_without_reductions_still_has_a_page(small):
    study, measurements = small
    alone = [m for m in measurements if m.method == "none"]

    pages = report_pages(study, alone)

    for file in ("index.html", "results.html"):
        assert "No reduction method was measured." in text_of(pages[file])


def test_without_the_unpruned_model_a_page_says_so_and_a_budget_is_of_what_others_were_given(small):
    study, measurements = small
    reduced = less, _ = [m for m in measurements if m.method != "none"]
    full = [m.budget("gqa") for m in reduced]
    less.result["benchmarks"]["gqa"]["visual_tokens"]["total"] /= 4
    for m in reduced:
        m.among[:] = reduced
        for found in m.result["benchmarks"].values():
            found["difference"] = None

    front = text_of(report_pages(study, reduced)["index.html"])

    assert "No method can be compared with the unpruned model, which is missing" in front
    assert "No reduction method was measured." not in front
    assert [m.budget("gqa") for m in reduced] == full
    less.among.clear()
    assert less.budget("gqa").prefill == pytest.approx(4 * full[0].prefill)


def test_missing_runs_answers_and_images_leave_gaps_not_errors(small):
    study, _ = small
    for path in [
        *Path("results").rglob("*.run.json"),
        *Path("results").rglob("*.parquet"),
        *Path("data").rglob("*.*"),
    ]:
        path.unlink()

    text = text_of("".join(report_pages(study, load(study)).values()))

    assert "Sample answers" not in text
    assert "No result left its answers" in text
    assert "Measured on 20" not in text


def test_the_gallery_joins_equal_answers_and_shows_the_image(pages):
    cards = pages["samples.html"].split('<article class="card">')[1:]

    assert len(cards) == 11
    assert all("data:image/webp;base64," in card for card in cards)
    first = text_of(cards[0])
    assert first.count("✓") <= 1
    assert "Unpruned" in first


def browse(page: str, folder: Path) -> str:
    """The document that a browser makes of a page, its scripts having run."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, f"file://{folder / 'page.html'}"], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


class Outline(HTMLParser):
    """How often a page has each tag with which attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements[tag, *(name for name, _ in attrs)] += 1

    def handle_endtag(self, tag):
        self.elements["/", tag] += 1


def every_page(study, measurements):
    twin = table_page(table1(study, measurements), study, measurements)
    return {**report_pages(study, measurements), "twin": twin}


def with_text(study, measurements, text):
    """The study with a text in every place that a model, a data set or a config fills."""
    for path in [m.files.result for m in measurements]:
        result = json.loads(path.read_text())
        result["label"] += text
        result["meta"] |= {"command": text, "device": text, "commit": text, "versions": {text: text}}
        path.write_text(json.dumps(result))
    for m in measurements:
        answers = read_answers(m.files.answers)
        for samples in answers.values():
            for sample in samples:
                sample.answer += text
                sample.prompt += text
                sample.references = [text]
        write_answers(m.files.answers, answers)
    models = [{**model, "path": text} for model in study.config["models"]]
    study = Study.of({**study.config, "models": models})
    return study, load(study)


def test_hostile_text_adds_no_element_and_no_attribute(small):
    harmless = every_page(*with_text(*small, "x" * len(HOSTILE)))
    fake.write_study(small[0], Path())

    for file, page in every_page(*with_text(*small, HOSTILE)).items():
        assert "<script>document.title" not in page
        assert Outline(page).elements == Outline(harmless[file]).elements, file
        if file in ("index.html", "results.html", "samples.html", "provenance.html", "twin"):
            assert "&lt;script&gt;document.title" in page, file


@pytest.fixture
def hostile(small):
    return with_text(*small, HOSTILE)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("file", ["index.html", "results.html", "samples.html", "provenance.html"])
def test_no_text_of_a_model_or_a_config_becomes_markup(hostile, tmp_path, file):
    page = report_pages(*hostile)[file]
    dom = browse(page, tmp_path)

    assert re.search(r"<title>(\w+ · )?dyrate · study smoke</title>", dom), "a script ran"
    assert dom.count("<script") == page.count("<script")
    assert not [element for element in Outline(dom).elements if "onerror" in element]
    assert dom.count("<td") == page.count("<td"), "a cell was closed by text"
    assert "&lt;script&gt;document.title" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_tables_twin_is_as_safe(hostile, tmp_path):
    study, measurements = hostile
    dom = browse(table_page(table1(study, measurements), study, measurements), tmp_path)

    assert "<script" not in dom
    assert "&lt;script&gt;document.title" in dom


def test_data_that_are_damaged_since_are_named(tmp_path):
    (tmp_path / "gqa.parquet").write_bytes(b"PAR1, or so it says")
    with pytest.raises(DyrateError, match=r"gqa.parquet: the image of row 3 cannot be read"):
        gallery._image(tmp_path, "gqa", 3)
