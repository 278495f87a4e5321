"""The pages as a browser sees them: the slider moves, keys work, nothing is fetched, text stays text."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dyrate.look import record
from dyrate.look.page.render import look_page, survival_page
from dyrate.look.record import Look, Survival
from tests.evaluation.stand_ins import VISUAL

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = (
    "</script><img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>'\"&{{ 7*7 }}"
)

# Runs beside the page, in whose frame it does what a reader does; what it returns becomes the title.
DRIVER = """
<iframe id="f" src="inner.html" style="width:WIDTHpx;height:900px;border:0"></iframe><script>
f.onload = () => {
  const page = f.contentDocument, window_ = f.contentWindow;
  const key = (name, target) => (target || page.body).dispatchEvent(
    new window_.KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const at = (look) => Number(look.querySelector("input[type=range]").value);
  const veil = (look, answer) => [...look.querySelectorAll(".answer")[answer].querySelectorAll(".veil rect")]
    .map((cell) => Number(cell.getAttribute("opacity")));
  const marked = (look) => [...look.querySelectorAll(".answer")]
    .map((one) => [...one.querySelectorAll(".word")].findIndex((word) => word.hasAttribute("aria-current")));
  const looks = [...page.querySelectorAll(".look")];
  const found = (() => { BODY })();
  const all = window_.performance.getEntriesByType("resource").map((one) => one.name);
  const root = page.documentElement;
  document.title = JSON.stringify({
    found, title: page.title, requests: all.filter((name) => !name.startsWith("data:")),
    images: page.images.length, wide: [root.scrollWidth, root.clientWidth],
  });
};
</script>
"""


def drive(page: str, folder: Path, body: str, width: int = 1200) -> dict[str, Any]:
    """What `body`, a function's JavaScript, returns of a page; no error may be told on its console."""
    assert CHROMIUM is not None
    (folder / "inner.html").write_text(page, encoding="utf-8")
    outer = DRIVER.replace("BODY", body).replace("WIDTH", str(width))
    (folder / "outer.html").write_text(outer, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=3000", f"--window-size={max(width, 500)},900"]
    command = [CHROMIUM, *flags, f"file://{folder / 'outer.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, "the page's script did not come to its end"
    text = title[1]
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(entity, character)
    seen: dict[str, Any] = json.loads(text)
    assert seen["requests"] == []
    return seen


def survival(*looks: Look) -> Survival:
    return {
        "schema": "dyrate.survival",
        "version": 1,
        "study": "tiny",
        "model": "tiny",
        "command": "dyrate survival",
        "device": "cpu",
        "dtype": "float32",
        "hashes": {},
        "looks": [{**look, "why": "drawn at random"} for look in looks],
    }


browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@browser
def test_the_slider_keys_buttons_and_words_move_all_answers(look: Look, tmp_path: Path) -> None:
    seen = drive(
        look_page(look, "", "dyrate look"),
        tmp_path,
        """
        const [look] = looks, slider = look.querySelector("input[type=range]"), steps = [];
        const note = () => steps.push([at(look), marked(look)]);
        note(); key("ArrowRight"); note(); key("ArrowRight", look.querySelector(".word")); note();
        key("ArrowLeft"); note(); key("End", look.querySelector(".word")); note();
        slider.value = 2; slider.dispatchEvent(new window_.Event("input")); note();
        look.querySelector("[data-by='1']").click(); note();
        look.querySelectorAll(".answer")[1].querySelectorAll(".word")[1].click(); note();
        key("ArrowLeft"); key("ArrowLeft"); key("ArrowLeft"); note();
        return steps;
        """,
    )
    lengths = [len(answer["steps"]) for answer in look["answers"]]
    last = max(lengths) - 1
    for (at, marked), expected in zip(seen["found"], [0, 1, 2, 1, last, 2, 3, 1, 0], strict=True):
        assert at == expected
        assert marked == [min(expected, length - 1) for length in lengths]


@browser
def test_what_is_dark_is_what_no_layer_saw(look: Look, tmp_path: Path) -> None:
    seen = drive(
        look_page(look, "", "dyrate look"),
        tmp_path,
        "const all = []; for (let i = 0; i < 3; i++) { all.push(look_(i)); key('ArrowRight'); } return all;"
        "function look_(i) { return [0, 1, 2].map((answer) => veil(looks[0], answer)); }",
    )
    for step, answers in enumerate(seen["found"]):
        for cells, answer in zip(answers, look["answers"], strict=True):
            layers = [answer["sets"][number] for number in answer["steps"][step]["sets"]]
            expected = [
                0.86 * (1 - sum(token in layer for layer in layers) / len(layers)) for token in range(VISUAL)
            ]
            assert cells == pytest.approx(expected, abs=1e-3)
    assert any(cell > 0 for step in seen["found"] for answer in step for cell in answer)


@browser
def test_each_sample_of_a_study_has_a_slider_of_its_own(look: Look, tmp_path: Path) -> None:
    page = survival_page([survival(look, look), survival(look)])
    seen = drive(
        page,
        tmp_path,
        "for (const i of [1, 2, 2]) key('ArrowRight', looks[i].querySelector('.word')); return looks.map(at)",
    )
    assert seen["found"] == [0, 1, 2]
    assert seen["title"] == "dyrate · study tiny · token survival"


def poisoned(look: Look) -> Look:
    """The look with hostile text wherever a model, a method or a data set could put it."""
    found = copy.deepcopy(look)
    found |= {"title": HOSTILE, "question": HOSTILE, "references": [HOSTILE], "failed": {HOSTILE: HOSTILE}}
    for answer in found["answers"]:
        answer |= {"label": HOSTILE, "text": HOSTILE, "notes": [HOSTILE], "method": {"name": HOSTILE}}
        answer["steps"][0]["word"] = HOSTILE
    return found


@browser
@pytest.mark.parametrize("kind", ["look", "survival"])
def test_hostile_text_is_text(look: Look, kind: str, tmp_path: Path) -> None:
    bad = poisoned(look)
    page = look_page(bad, HOSTILE, HOSTILE) if kind == "look" else survival_page([survival(bad)])
    seen = drive(
        page,
        tmp_path,
        "key('ArrowRight'); key('ArrowLeft');"
        "return [looks[0].querySelector('.state').textContent, page.querySelectorAll('script').length];",
    )
    state, scripts = seen["found"]
    assert state.startswith(HOSTILE)
    assert scripts == 2, "the data of one look and the script"
    assert seen["images"] == 0
    assert seen["title"].startswith("dyrate")
    assert "49" not in page.partition("</style>")[2].partition("<svg")[0]


@browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_never_scrolls_sideways(look: Look, width: int, tmp_path: Path) -> None:
    scrolled, seen = drive(look_page(look, "x" * 300, "y" * 300), tmp_path, "", width)["wide"]
    assert scrolled <= seen <= width


@browser
def test_tokens_that_are_no_patches_are_not_drawn(look: Look, tmp_path: Path) -> None:
    note = "The connector ldp makes 4 visual tokens of the image."
    picture: Any = {**look["picture"], "places": None, "note": note}
    page = look_page({**look, "picture": picture}, "", "dyrate look")
    seen = drive(page, tmp_path, "key('ArrowRight'); return [veil(looks[0], 1), at(looks[0])];")
    assert seen["found"] == [[], 1]
    assert note in page


def test_a_page_without_script_has_the_numbers(look: Look) -> None:
    page = look_page(look, "", "dyrate look")
    for answer in look["answers"]:
        for share in answer["steps"][1]["mass"].values():
            assert f"<td>{100 * share:.0f}%</td>" in page
    assert "://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page), "nothing points outside"


def test_a_record_that_does_not_fit_itself_is_refused(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    record.write(path, survival(look))
    assert record.read(path) == survival(look)
    assert survival_page([record.read(path)]) == survival_page([survival(look)])

    def refused(change: Any, refusal: str) -> None:
        damaged = copy.deepcopy(survival(look))
        change(damaged["looks"][0])
        path.write_text(json.dumps(damaged))
        with pytest.raises(record.LookError, match=refusal):
            record.read(path)

    refused(lambda one: one["answers"][1]["sets"].append([99]), "there is no visual token 99")
    refused(lambda one: one["answers"][1]["steps"][0]["sets"].append(7), "there is no set 7")
    refused(lambda one: one["picture"]["places"].pop(), "3 places of 4 tokens")
    refused(
        lambda one: one["answers"][0]["steps"][0]["mass"].pop("ins"),
        r"looks.0.answers.0.steps.0.mass.ins is missing",
    )
    refused(lambda one: one.update(sceret=1), "sceret")
