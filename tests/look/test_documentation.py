"""What docs/runtime.md prints as Python runs as printed, with the repository's models at hand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_look_in_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/runtime.md").read_text("utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 10
    exec(compile(block, "docs/runtime.md", "exec"), {})
    told = capsys.readouterr().out
    assert "unpruned triangle [0.0, 0.0]" in told
    assert "FastV (K=2, R=0.5) triangle [0.5, 0.5]" in told
    assert "VTW" in told
    assert "which visual tokens live at each word" in (tmp_path / "look.html").read_text("utf-8").lower()
