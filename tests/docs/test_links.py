"""Links of the documentation lead somewhere: to files, to headings, and on the site that mkdocs makes."""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import HISTORY, PAGES, ROOT, page_id

FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")
MKDOCS = shutil.which("mkdocs", path=f"{ROOT / '.venv-docs/bin'}:{Path(sys.executable).parent}")


def anchors(page: Path) -> set[str]:
    """Ids of headings as GitHub makes them, and those that are written out."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", html.unescape(one).lower()).replace(" ", "-") for one in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", sorted({*PAGES, *HISTORY, *ROOT.glob("*/README.md")}), ids=page_id)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.slow
@pytest.mark.skipif(MKDOCS is None, reason="no mkdocs: `make docs` installs it")
def test_the_site_is_built_without_a_warning_and_asks_no_network(tmp_path: Path) -> None:
    assert MKDOCS is not None
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},  # Material's own notice, which is none of the build
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in tmp_path.rglob("*.html"):
        if "studies" not in page.parts:
            loaded = re.findall(
                r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text("utf-8")
            )
            assert loaded == [], page
