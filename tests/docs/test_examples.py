"""Pages that show how something is added: each is played from top to bottom in a copy of the repository."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks, commands, page_id
from tests.pipeline.conftest import Project

ADDING = sorted((DOCS / "add").glob("*.md"))


def play(page: Path, project: Project) -> None:
    """Write its files, apply its patches, run its commands and its Python, and find what they print."""
    output = ""
    for block in blocks(page):
        if block.title:
            path = project.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "diff":
            patch = ["git", "apply", "--recount", "--whitespace=nowarn", "-"]
            subprocess.run(patch, cwd=project.folder, input=block.text, text=True, check=True)
        elif block.language == "console":
            for command, printed in commands(block.text):
                output = said(project, "bash", "-c", command)
                assert_printed(printed, output)
        elif block.language == "python":
            output = said(project, "python", "-c", block.text)
        else:
            assert block.language == "text", f"{page}: a block that nobody runs: {block.text}"
            assert_printed(block.text.splitlines(), output)


def said(project: Project, *command: str) -> str:
    done = project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_printed(lines: list[str], output: str) -> None:
    for line in lines:
        assert line.strip() in output, output


@pytest.mark.slow
@pytest.mark.parametrize("page", ADDING, ids=page_id)
def test_a_page_on_adding_something_runs_as_printed(page: Path, tmp_path: Path, warm: Path) -> None:
    project = Project.copied_from(ROOT, tmp_path, warm)
    (tmp_path / "models").symlink_to(ROOT / "models")
    play(page, project)


def test_a_page_has_each_kind_of_block() -> None:
    kinds = {(block.language, bool(block.title)) for page in ADDING for block in blocks(page)}
    assert kinds >= {("python", True), ("python", False), ("diff", False), ("console", False), ("yaml", True)}
