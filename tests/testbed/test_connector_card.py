"""The card of the connectors that come with the project is what the command writes."""

import shutil
from pathlib import Path

import pytest

from dyrate.testbed.connectors.card import write_card
from tests.pipeline.conftest import REPOSITORY

FOLDER = Path("connectors/testbed-s")


def test_the_shipped_card_is_that_of_the_shipped_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPOSITORY / FOLDER, tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    shipped = (FOLDER / "README.md").read_text()
    (FOLDER / "README.md").unlink()

    assert write_card(FOLDER).read_text() == shipped
    assert "models/testbed-s`, unchanged" in shipped
    rows = [line.split(" | ") for line in shipped.splitlines() if line.endswith(" |")][2:]
    names = {path.parent.name for path in FOLDER.glob("*/connector.safetensors")}
    assert {row[0].removeprefix("| ") for row in rows} == names, "a variant has no weights, and no row"
