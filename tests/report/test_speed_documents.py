"""Documents of `dyrate bench` are read whole, or refused with the file and the key."""

import json
from pathlib import Path

import pytest

from dyrate.errors import DyrateError
from dyrate.speed.documents import FOLDER, SpeedError, paths, read
from tests.report.speed.fake import (
    FIXTURE,
    HARNESS,
    ROWS,
    bench,
    written,
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_the_command_writes_is_read():
    (found,) = read([FIXTURE.as_posix()]).benches

    assert found.model == "LLaVA-1.5-7B"
    assert found.made.device == "NVIDIA H200"
    assert [load.batch for load in found.loads] == [1, 32]
    assert found.timings[0].contender == "generate"
    assert found.timings[0].per_token.median == pytest.approx(18.42, abs=0.01)


def _without(key):
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: d.update(schema="dyrate.result"), "schema: is 'dyrate.result', should be 'dyrate.bench'"),
        (lambda d: d.update(version=2), "version: is 2; this dyrate reads version 1"),
        (_without("limits"), "'limits' is a required property"),
        (lambda d: d.update(weights="real"), "weights: 'real' is not one of"),
        (lambda d: d["shape"]["text"].pop("heads"), "shape.text: 'heads' is a required property"),
        (lambda d: d["shape"]["text"].update(depth=1), "shape.text: "),
        (lambda d: d["rows"][0].update(matrix_share="half"), "rows.0.matrix_share: 'half' is not of type"),
        (lambda d: d["rows"][0]["whole_ms"].update(median=0), "rows.0.whole_ms.median: 0 is less than"),
        (lambda d: d["rows"][1].update(prompt=500), "rows.1.prompt: 500 tokens; the image alone has 576"),
        (lambda d: d["rows"].clear(), "rows: [] "),
        (lambda d: d["rows"][0].update(method={"name": "replay", "rates": [2]}), "rows.0.method.rates: "),
        (
            lambda d: d["rows"][0].update(decode_step={"parts": [{"name": "_attend", "calls": 0}]}),
            "rows.0.decode_step.parts.0: 'milliseconds' is a required property",
        ),
    ],
)
def test_a_bad_document_is_named_with_its_key(spoil, complaint):
    document = json.loads(json.dumps(bench(ROWS)))
    spoil(document)

    with pytest.raises(SpeedError) as refused:
        written(document)

    assert isinstance(refused.value, DyrateError)
    assert f"{FOLDER}/0.json: {complaint}" in str(refused.value).replace("(top level): ", "")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": NaN}', "\udcff"])
def test_a_file_that_is_none_of_it_is_named(text):
    FOLDER.mkdir(parents=True)
    (FOLDER / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(SpeedError, match=r"^results/h200/x\.json: "):
        read()


def test_a_missing_field_of_the_harness_is_named():
    spoiled = {**HARNESS, "rows": [{**HARNESS["rows"][0], "seconds": []}]}

    with pytest.raises(SpeedError, match=r"0\.json: rows\.0\.seconds"):
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
        orders.append([found.timings for found in read().benches])

    assert orders[0] == orders[1]
