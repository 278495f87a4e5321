"""Documents of `dyrate bench` are read whole, or refused with the file and the key."""

import json
from pathlib import Path

import pytest

from dyrate.errors import DyrateError
from dyrate.speed.documents import FOLDER, paths, read
from tests.report.speed.fake import (
    FASTV,
    FIXTURE,
    HARNESS,
    ROWS,
    bench,
    row,
    written,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_the_command_writes_is_read():
    (found,) = read([FIXTURE.as_posix()]).benches

    assert found.shape_name == "LLaVA-1.5-7B"
    assert found.device == "NVIDIA H200"
    assert [load.batch for load in found.loads] == [1, 32]
    assert found.rows[0].contender == "generate"
    assert found.rows[0].per_token_ms.median == pytest.approx(18.42, abs=0.01)


@pytest.mark.parametrize(
    "path", [FIXTURE, *sorted((ROOT / FOLDER).glob("*.json"))], ids=lambda path: path.name
)
def test_what_was_read_is_written_as_it_was(path):
    found = read([path.as_posix()])
    (document,) = (*found.benches, *found.harnesses)

    assert document.to_json(indent=1) + "\n" == path.read_text("utf-8")


def test_a_whole_number_stays_one():
    rows = [row({**FASTV, "rate": 1}, speedup=2)]

    (found,) = written(bench(rows)).benches

    assert json.loads(found.to_json())["rows"] == rows
    assert '"rate": 1,' in found.to_json() or '"rate": 1}' in found.to_json()
    assert '"speedup": 2,' in found.to_json()


def test_settings_of_other_methods_are_theirs_to_name():
    own = {"name": "theirs.py:Theirs", "minimum": 3, "rates": "all", "layer": [1, 2]}

    (found,) = written(bench([row(own)])).benches

    assert found.rows[0].method.settings == own


def _without(key):
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: d.update(schema="dyrate.result"), "schema: is 'dyrate.result', should be 'dyrate.bench'"),
        (lambda d: d.update(version=2), "version: is 2; this dyrate reads version 1"),
        (_without("limits"), "limits is missing"),
        (lambda d: d.update(weights="real"), "weights: 'real' is not one of"),
        (
            lambda d: d["shape"]["text"].pop("heads"),
            "shape.text: layers, hidden, intermediate, kv_heads, head_dim, vocabulary: should be",
        ),
        (lambda d: d["shape"]["text"].update(depth=1), "shape.text: "),
        (lambda d: d["rows"][0].update(matrix_share="half"), "rows.0.matrix_share: 'half' is not a number"),
        (lambda d: d["rows"][0]["whole_ms"].update(median=0), "rows.0.whole_ms.median: 0 is not above 0"),
        (lambda d: d["rows"][1].update(prompt=500), "rows.1.prompt: 500 tokens; the image alone has 576"),
        (lambda d: d["rows"][0].update(decode_steps=None), "rows.0.decode_steps is unknown; did you mean"),
        (lambda d: d["rows"].clear(), "rows: nothing is given"),
        (
            lambda d: d["rows"][0].update(method={"name": "replay", "rates": [2]}),
            "rows.0.method.rates.0: 2 is not",
        ),
        (
            lambda d: d["rows"][0].update(decode_step={"parts": [{"name": "_attend", "calls": 0}]}),
            "rows.0.decode_step.parts.0.milliseconds is missing",
        ),
    ],
)
def test_a_bad_document_is_named_with_its_key(spoil, complaint):
    document = json.loads(json.dumps(bench(ROWS)))
    spoil(document)

    with pytest.raises(DyrateError) as refused:
        written(document)

    assert f"{FOLDER}/0.json: {complaint}" in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": NaN}', "\udcff"])
def test_a_file_that_is_none_of_it_is_named(text):
    FOLDER.mkdir(parents=True)
    (FOLDER / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(DyrateError, match=r"^results/h200/x\.json: "):
        read()


def test_a_missing_field_of_the_harness_is_named():
    spoiled = {**HARNESS, "rows": [{**HARNESS["rows"][0], "seconds": []}]}

    with pytest.raises(DyrateError, match=r"0\.json: rows\.0\.seconds"):
        written(spoiled)


def test_names_of_files_do_not_matter():
    one, other = bench(ROWS[:6]), bench(ROWS[6:])
    FOLDER.mkdir(parents=True)
    orders = []
    for names in (("a", "b"), ("b", "a")):
        for path in map(Path, paths()):
            path.unlink()
        for name, document in zip(names, (one, other), strict=True):
            (FOLDER / f"{name}.json").write_text(json.dumps(document))
        orders.append([found.rows for found in read().benches])

    assert orders[0] == orders[1]
