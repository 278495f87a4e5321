"""The bench of the whole harness runs both sides on the same model and counts what they make."""

import json
from pathlib import Path

import pytest

from dyrate.cli import main
from tests.evaluation.stand_ins import make_checkpoint


@pytest.mark.slow
def test_both_sides_answer_and_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny")
    output = tmp_path / "out" / "harness.json"
    command = f"bench-harness --model {checkpoint} --processor {checkpoint} --samples 3 --peer-samples 2"
    command += f" --batch-size 2 --new-tokens 3 --rounds 1 --output {output} --methods none"
    status = main([*command.split(), '{"name": "fastv", "layer": 1, "rate": 0.5}'])
    assert status == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads(output.read_text("utf-8"))
    assert (document["schema"], document["weights"], document["new_tokens"]) == (
        "dyrate.bench_harness",
        "checkpoint",
        3,
    )
    peer, none, fastv = document["rows"]
    assert [row["name"] for row in (peer, none, fastv)] == ["llava_hf", "Unpruned", "FastV (K=1, R=0.5)"]
    assert [row["samples"] for row in (peer, none, fastv)] == [2, 3, 3]
    assert peer["speedup"] == 1
    for row in (peer, none, fastv):
        assert row["captions_per_second"] == pytest.approx(row["samples"] / row["seconds"][0])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--rounds 0", "--rounds: 0 is not a whole number from 1 on"),
        ("--samples 4 --peer-samples 8", "--peer-samples 8: expected at most --samples, 4"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench-harness", "--model", "nowhere", *arguments.split()]) == 2
    assert complaint in capsys.readouterr().err


def test_a_shape_of_another_family_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench-harness", "--shape", "qwen3-vl-8b"]) == 2
    assert "--shape qwen3-vl-8b: the processor is a LLaVA's; known here" in capsys.readouterr().err
