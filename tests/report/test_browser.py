"""What a reader's browser makes of the pages: no errors, no requests, sorting, filters, accessibility."""

import json
import re
import shutil
import subprocess
import tarfile
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest

from dyrate.report.site import PAGES
from tests.report.test_page import CHROMIUM

AXE = "axe-core@4.14.1"
SHOWN = [file for file in PAGES if file != "attention.html"]  # which has nothing here
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def chromium(path: Path, *flags: str) -> tuple[str, str]:
    """The document that a page becomes, and what the browser logged."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        *flags,
        "--dump-dom",
        f"file://{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def site(rendered, tmp_path_factory):
    """The pages on disk, as a reader has them."""
    folder = tmp_path_factory.mktemp("site")
    for file, page in rendered[1].items():
        (folder / file).write_text(page, encoding="utf-8")
    return folder


def told(site: Path, file: str, script: str, *flags: str, address: str = "") -> object:
    """What an async function in the page returns; the page's policy, which lets nobody in, is taken off."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", (site / file).read_text("utf-8"))
    script = (
        "<script>addEventListener('load', async () => { let told;"
        f" try {{ told = await (async () => {{{script}}})() }} catch (error) {{ told = String(error.stack) }}"
        " const out = document.createElement('pre'); out.id = 'told';"
        " out.textContent = JSON.stringify(told ?? null); document.body.append(out) })</script>"
    )
    driven = site / f"driven-{file}"
    driven.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    dom, _ = chromium(Path(f"{driven}{address}"), *flags)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(unescape(found))


@pytest.mark.parametrize("file", PAGES)
def test_a_page_logs_no_error_and_asks_for_nothing(site, file):
    _, log = chromium(site / file)

    assert not [line for line in log.splitlines() if "CONSOLE" in line], "a refused request is an error, too"


@pytest.mark.parametrize("file", PAGES)
def test_a_page_never_scrolls_sideways(site, file):
    widths = [390, 1440]
    frames = "".join(
        f'<iframe src="{file}" style="width:{w}px;height:900px;border:0"></iframe>' for w in widths
    )
    (site / "frames.html").write_text(f"<body>{frames}</body>")

    found = told(
        site,
        "frames.html",
        "return [...document.querySelectorAll('iframe')].map((f) => {"
        "const d = f.contentDocument.documentElement; return [d.scrollWidth, d.clientWidth] })",
        "--window-size=1600,2000",
        "--hide-scrollbars",
    )

    assert [(scrolled <= seen, seen) for scrolled, seen in found] == [(True, width) for width in widths]


SORTS = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const found = [];
for (const table of document.querySelectorAll('table.sortable')) {
  for (let e = table; e; e = e.parentElement) if (e.tagName === 'DETAILS') e.open = true;
  const buttons = [...table.querySelectorAll('thead button.sort')];
  const orders = [];
  for (const button of buttons.slice(0, 4)) {
    const heading = button.closest('th'), column = +heading.dataset.sortCol;
    const order = async () => {
      button.click();
      await wait(20);
      return [...table.tBodies].filter((b) => !b.classList.contains('group')).map((body) =>
        [...body.rows].map((row) => row.cells[column].dataset.sort).filter((key) => key !== ''));
    };
    orders.push([await order(), await order(), heading.getAttribute('aria-sort')]);
  }
  const groups = [...table.tBodies].map((b) => b.classList.contains('group'));
  found.push([table.className, buttons.length, orders, groups]);
}
return found;
"""


def ordered(keys: list[str]) -> bool:
    """Whether numbers rise; words are in the browser's own order, which is nobody's to check here."""
    if not all(re.fullmatch(r"-?[\d.]+", key) for key in keys):
        return True
    return keys == sorted(keys, key=float)


@pytest.mark.parametrize("file", ["index.html", "results.html", "budget.html", "provenance.html"])
def test_each_table_sorts_within_its_groups(site, file):
    found = told(site, file, SORTS)

    assert len(found) == len(re.findall(r'<table class="[^"]*sortable">', (site / file).read_text("utf-8")))
    for name, buttons, orders, groups in found:
        assert buttons >= 2, name
        assert not any(a and b for a, b in pairwise(groups)), "a group lost its rows"
        for down, up, state in orders:
            assert state == "ascending"
            for falling, rising in zip(down, up, strict=True):
                assert ordered(rising), (name, rising)
                assert ordered(falling[::-1]), (name, falling)
                assert sorted(falling) == sorted(rising)


FILTERS = """
const found = [];
for (const form of document.querySelectorAll('main form.filter:not(#browse)')) {
  const table = form.nextElementSibling.querySelector('table');
  const shown = () => [...table.querySelectorAll('tbody:not(.group) tr')].filter((row) => !row.hidden);
  const all = shown().length;
  const set = (control, value) => {
    control.value = value;
    control.dispatchEvent(new Event('input', { bubbles: true }));
  };
  const search = form.querySelector('input');
  set(search, 'fastv');
  const named = shown().map((row) => row.cells[0].textContent.toLowerCase().includes('fastv'));
  set(search, '');
  const choices = [...form.querySelectorAll('select')].map((select) => {
    const value = select.options[1].value;
    set(select, value);
    const fits = shown().map((row) => row.dataset[select.name] === value);
    const said = form.querySelector('output').textContent;
    set(select, '');
    return [fits, said];
  });
  found.push([all, named, choices, shown().length]);
}
return found;
"""


@pytest.mark.parametrize("file", ["results.html", "provenance.html"])
def test_each_filter_filters(site, file):
    found = told(site, file, FILTERS)

    assert found
    for rows, named, choices, after in found:
        assert len(named) < rows == after
        assert all(named)
        for fits, said in choices:
            assert all(fits)
            assert 0 < len(fits) < rows
            assert said == f"{len(fits)} of {rows} rows"


BROWSE = """
const form = document.getElementById('browse'), list = document.getElementById('found');
const count = () => +document.getElementById('count').textContent.split(' ')[0];
const set = (name, value) => {
  form.elements[name].value = value;
  form.dispatchEvent(new Event('input', { bubbles: true }));
  return count();
};
const start = [form.elements.benchmark.value, form.elements.row.selectedOptions[0].textContent, count()];
const one = { wrong: set('outcome', 'wrong'), worse: set('outcome', 'worse') };
one.right = set('outcome', 'right');
const cards = [...list.querySelectorAll('.card')].map((card) => card.textContent);
set('outcome', '');
const text = set('text', 'TRIANGLE'), nothing = set('text', 'no such word');
set('text', '');
set('row', '');
const all = set('benchmark', '');
const first = list.children.length;
document.getElementById('more').click();
return { start, one, cards, text, nothing, all, first, later: list.children.length };
"""


def test_a_cell_leads_to_its_samples_and_each_filter_of_them_filters(site):
    cells = re.findall(
        r'<a class="v" href="samples\.html#benchmark=pope&amp;row=(\w+)">',
        (site / "results.html").read_text(),
    )
    index = json.loads(re.search(r'id="rows">(.*?)</script>', (site / "samples.html").read_text()).group(1))
    (vtw,) = [one["key"] for one in index if (one["label"], one["model"]) == ("VTW (K=4)", "testbed-s")]
    assert vtw in cells

    found = told(site, "samples.html", BROWSE, address=f"#benchmark=pope&row={vtw}")

    assert found["start"] == ["pope", "VTW (K=4), greedy", 8]
    assert found["one"]["wrong"] + found["one"]["right"] == 8
    assert 0 < found["one"]["worse"] <= found["one"]["wrong"]
    assert len(found["cards"]) == found["one"]["right"]
    assert all("✓" in card and "VTW" in card for card in found["cards"])
    assert (found["text"], found["nothing"], found["all"]) == (8, 0, 88)
    assert (found["first"], found["later"]) == (20, 40)


def test_without_script_the_pages_can_be_read(rendered):
    pages = {
        file: re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL) for file, page in rendered[1].items()
    }

    assert pages["results.html"].count("dyrate evaluate --model") > 20
    assert "To look through them needs the script of this page" in pages["samples.html"]
    assert pages["samples.html"].count('<article class="card') == 11


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, as npm has it."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which brings axe-core")
    done = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, text=True, check=False)
    packed = list(folder.glob("*.tgz"))
    if not packed:
        pytest.skip(f"npm pack {AXE} brought nothing: {done.stderr.strip()[-200:]}")
    with tarfile.open(packed[0]) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("file", SHOWN)
def test_axe_finds_nothing_serious(site, axe, file, scheme):
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    (site / "axe.js").write_text(axe, encoding="utf-8")
    found = told(
        site,
        file,
        "document.querySelectorAll('details').forEach((d) => { d.open = true });"
        "await new Promise((done) => { const s = document.createElement('script'); s.src = 'axe.js';"
        " s.onload = done; document.head.append(s) });"
        "const { violations } = await axe.run(document, { resultTypes: ['violations'] });"
        "return { dark: matchMedia('(prefers-color-scheme: dark)').matches, violations: violations.map((v) =>"
        " [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary]) }",
        *dark,
    )

    assert found["dark"] == (scheme == "dark")
    assert not [one for one in found["violations"] if one[0] in ("serious", "critical")]
