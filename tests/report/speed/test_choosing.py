"""What choosing takes: methods beside the controls that drop as many tokens, from shipped documents."""

import json
from pathlib import Path

import pytest

from dyrate.report.speed.choosing import choosing
from dyrate.speed import documents
from tests.pipeline.conftest import REPOSITORY

FOLDER = REPOSITORY / documents.METHODS


@pytest.fixture(scope="module")
def benches():
    return documents.read(documents.paths(FOLDER)).benches


def test_a_line_is_a_method_minus_its_control(benches):
    [(bench, lines)] = choosing(benches)
    rows = {(row.batch, row.contender, row.name): row for row in bench.rows}
    fastv = next(line for line in lines if line.name == "FastV (K=2, B=0.3333)" and line.batch == 8)
    mine = rows[8, "fastv", "FastV (K=2, B=0.3333)"]
    control = next(
        row for row in bench.rows if row.batch == 8 and row.contender.endswith("as FastV (K=2, B=0.3333)")
    )
    whole = rows[8, "none", "Unpruned"]

    assert fastv.milliseconds == pytest.approx(mine.first_token_ms.median - control.first_token_ms.median)
    assert fastv.time_share == pytest.approx(fastv.milliseconds / whole.first_token_ms.median)
    assert fastv.flops_share == pytest.approx(
        (mine.prefill_flops - control.prefill_flops) / whole.prefill_flops
    )
    assert 0 < fastv.flops_share < 1e-3


def test_every_method_with_a_control_has_a_line_per_load_and_no_other(benches):
    [(bench, lines)] = choosing(benches)
    names = {(row.batch, row.contender.removeprefix(documents.GIVEN)) for row in bench.rows if row.given}

    assert {(line.batch, line.name) for line in lines} == names
    assert not any(line.name.startswith(("ToMe", "Downsampled", "Unpruned")) for line in lines)


def test_a_name_that_ends_like_another_is_not_taken_for_it(benches, tmp_path):
    [(bench, _)] = choosing(benches)
    document = json.loads(Path(bench.path).read_text())
    document["rows"] = [
        row for row in document["rows"] if row["batch"] == 1 and row["contender"] in ("none", "fastv")
    ]
    odd = {**document["rows"][1], "contender": f"{documents.GIVEN}Another FastV (K=2, B=0.3333)"}
    document["rows"].append(
        {**odd, "label": "As many tokens, not chosen, graph", "method": {"name": "given"}}
    )
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(document))

    assert choosing(documents.read([path.as_posix()]).benches) == []


def test_engines_are_not_mixed(benches, tmp_path):
    [(bench, _)] = choosing(benches)
    document = json.loads(Path(bench.path).read_text())
    for row in document["rows"]:
        if row["contender"].startswith(documents.GIVEN):
            row["engine"] = "transformers"
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(document))

    assert choosing(documents.read([path.as_posix()]).benches) == []


def test_controls_reduce_nothing_of_their_own(benches):
    controls = [row for bench in benches for row in bench.rows if row.given]
    assert controls
    assert not any(row.reduces or row.unpruned or row.overhead for row in controls)
