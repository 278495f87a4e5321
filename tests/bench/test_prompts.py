"""A benchmark's prompts reach the bench as the evaluation would ask them."""

import json
from pathlib import Path

import pytest
import torch

from dyrate.bench.measure import measure
from dyrate.bench.prompts import Reader
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.speed.documents import Load
from tests.bench.test_bench import contenders
from tests.evaluation.stand_ins import make_benchmark, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_benchmark(folder, "nocaps", 5)
    return folder


@pytest.mark.slow
def test_prompts_are_those_that_an_evaluation_generates_from(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dyrate.evaluation.benchmarks import select
    from dyrate.evaluation.evaluate import evaluate_loaded, load
    from dyrate.evaluation.generator import Generator
    from dyrate.evaluation.harness_tasks import load_tasks
    from dyrate.evaluation.job import Evaluation

    asked: list[torch.Tensor] = []
    generate = Generator.generate

    def watched(self, method, decoding, inputs, *others, **more):
        asked.append((inputs["input_ids"], inputs["pixel_values"]))
        return generate(self, method, decoding, inputs, *others, **more)

    monkeypatch.setattr(Generator, "generate", watched)
    job = Evaluation(
        model=str(checkpoint), benchmarks=("nocaps",), output=data.parent / "out", data=data, batch_size=1
    )
    job.output.mkdir()
    evaluate_loaded(
        job, load(job), load_tasks(select(job.benchmarks), "testbed", data, None, primary_only=True)
    )

    read = Reader(str(checkpoint), torch.device("cpu"), "float32").prompts(
        "nocaps", "testbed", data, batch=1, count=5
    )
    assert len(read) == len(asked) == 5
    for prompt, (ids, pixels) in zip(read, asked, strict=True):
        assert torch.equal(prompt["input_ids"], ids)
        assert torch.equal(prompt["pixel_values"], pixels)


def test_rounds_take_the_prompts_in_turn(checkpoint: Path, data: Path) -> None:
    reader = Reader(str(checkpoint), torch.device("cpu"), "float32")
    prompts = reader.prompts("nocaps", "testbed", data, batch=2, count=2)
    assert [len(prompt["input_ids"]) for prompt in prompts] == [2, 2]
    entries = contenders({"name": "none"})
    seen: list[int] = []
    generate = type(entries[0]).generate

    def watched(self, model, inputs, *others):
        seen.append(next(i for i, one in enumerate(prompts) if one is inputs))
        return generate(self, model, inputs, *others)

    type(entries[0]).generate = watched
    try:
        load = Load(2, prompts[0]["input_ids"].shape[1], 3)
        measure(reader.model, entries, load, rounds=3, warmups=1, seed=0, done=int, prompts=prompts)
    finally:
        type(entries[0]).generate = generate
    assert seen == [0, 0, 0, 0, 1, 1, 0, 0], "twice in the warm-up and in each round"


def test_too_few_samples_for_a_batch_are_refused(checkpoint: Path, data: Path) -> None:
    reader = Reader(str(checkpoint), torch.device("cpu"), "float32")
    with pytest.raises(DyrateError, match="--benchmark nocaps: has no 6 samples for a batch"):
        reader.prompts("nocaps", "testbed", data, batch=6, count=1)


def test_the_command_says_whose_prompts_they_are(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny.json"
    command = f"bench --model {checkpoint} --benchmark nocaps --data {data} --peers --methods none"
    assert main([*command.split(), "--new-tokens", "3", "--rounds", "1", "--output", str(output)]) == 0
    document = json.loads(output.read_text("utf-8"))
    assert document["benchmark"] == "nocaps"
    [row] = document["rows"]
    assert (row["batch"], row["new_tokens"]) == (1, 3)
    capsys.readouterr()

    assert main(["bench", "--shape", "llava-1.5-7b", "--benchmark", "nocaps"]) == 2
    assert "--benchmark nocaps: a model of random weights reads no words" in capsys.readouterr().err

    assert main([*command.split(), "--prompt", "64"]) == 2
    assert (
        "--prompt 64: the prompts of --benchmark nocaps have lengths of their own" in capsys.readouterr().err
    )
    assert main(["bench", "--model", str(checkpoint), "--data", str(data)]) == 2
    assert f"--data {data}: says where the prompts of --benchmark are" in capsys.readouterr().err
