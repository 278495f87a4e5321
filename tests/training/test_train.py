"""Claims about the whole job: same bytes after a kill, data from the testbed or a file, clear mistakes."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from dyrate import cli, files
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import load_model
from dyrate.evaluation.processor import load_processor
from dyrate.methods.dyrate import DyRate
from dyrate.predictor_config import read_record
from dyrate.predictor_training.batch import NO_TARGET, Encoder
from dyrate.predictor_training.examples import FileExamples, TestbedExamples
from dyrate.predictor_training.job import Training
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.train import train_predictor
from dyrate.predictors import load_predictor
from dyrate.testbed.models.architecture import build_model, build_processor, size_of
from dyrate.testbed.models.packing import Packer
from dyrate.testbed.models.stream import world_tokenizer
from dyrate.testbed.world.examples import training_example

SMALL = {"steps": 23, "batch_size": 2, "validation_examples": 4, "layer": 1, "hidden": 4, "rates": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a small untrained LLaVA of the testbed."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = world_tokenizer(30)
    build_model(size_of("testbed-tiny"), tokenizer, 0).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    assert train_predictor(Training(model=str(model), recipe=SMALL, output=output)) is not None
    return output


@pytest.mark.slow
def test_a_killed_job_ends_with_the_same_bytes(model, trained, tmp_path):
    job = Training(model=str(model), recipe=SMALL, output=tmp_path)
    assert train_predictor(job, stop_after=21) is None
    assert not (tmp_path / "predictor.json").exists()
    train_predictor(job)
    for name in ("predictor.safetensors", "predictor.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    assert json.loads((tmp_path / "predictor.run.json").read_text())["resumed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictor.json",
        "predictor.run.json",
        "predictor.safetensors",
    ]


@pytest.mark.slow
def test_a_job_that_asks_otherwise_does_not_go_on_from_another_ones_checkpoint(model, tmp_path):
    job = Training(model=str(model), recipe=SMALL, output=tmp_path)
    assert train_predictor(job, stop_after=21) is None
    other = Training(model=str(model), recipe=SMALL, output=tmp_path, chat_template="vicuna")
    with pytest.raises(DyrateError, match=r"belongs to another model: .*chat_template"):
        train_predictor(other)


def test_the_record_tells_what_was_done_and_what_came_of_it(model, trained):
    record = read_record(trained)
    assert record["recipe"] == json.loads(json.dumps(Recipe.of(SMALL).__dict__))
    assert len(record["model"]["weights"]) == 64
    assert record["data"]["source"] == "testbed"
    assert {"unpruned", "pruned", "retained_prefill", "retained_decode"} <= set(record["validation"])
    assert all(0 <= rate <= 1 for rate in record["schedule"])
    assert len(record["schedule"]) >= 2
    assert record["parameters"] == load_predictor(trained).parameters_count
    assert str(trained.parent) not in (trained / "predictor.json").read_text()


def test_the_method_runs_what_was_trained(model, trained):
    loaded, processor = load_model(model, torch.device("cpu"), "float32"), load_processor(model)
    inputs = processor(
        text=["USER: <image>\nWhat? ASSISTANT:"], images=[Image.new("RGB", (168, 168))], return_tensors="pt"
    )
    with DyRate(layer=1, predictor=str(trained))(loaded) as run:
        loaded.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert len(run.steps) == 3


def test_answers_are_tokenised_as_the_models_were_trained(model):
    processor, loaded = load_processor(model), load_model(model, torch.device("cpu"), "float32")
    encoder = Encoder(processor, loaded, longest_answer=128)
    example = training_example(0, 1)
    image = Image.fromarray(example.image)
    packed, placed = Packer(processor.tokenizer, 2048).pack(example)
    for number, turn in enumerate(placed, start=1):
        batch = encoder([(image, turn.prompt, turn.answer)])
        theirs = packed[1][(packed[3] == number) & (packed[1] != NO_TARGET)]
        assert batch.targets[0].tolist() == theirs.tolist()
        seen = packed[0][(packed[3] == number) | (packed[3] == 0)]
        assert batch.input_ids[0].tolist() == seen[:-1].tolist(), "the prompt, and all but the end"


def test_long_answers_are_cut(model):
    processor, loaded = load_processor(model), load_model(model, torch.device("cpu"), "float32")
    image = Image.new("RGB", (168, 168))
    batch = Encoder(processor, loaded, 3)([(image, "What?", "one two three four five six seven")])
    assert batch.steps == 3


def test_half_of_the_testbeds_examples_are_captions_of_scenes_unseen():
    examples = TestbedExamples(seed=0, caption_share=0.5)
    asked = [examples.training(index)[1] for index in range(120)]
    captions = sum("caption" in question for question in asked)
    assert 40 < captions < 70
    assert examples.training(5)[1:] == examples.training(5)[1:]
    assert TestbedExamples(1, 0.5).training(5)[1:] != examples.training(5)[1:]
    assert TestbedExamples(1, 0.0).validation(3)[0][1:] == TestbedExamples(0, 0.0).validation(3)[0][1:]
    trained_on = Image.fromarray(training_example(0, 5).image)
    assert examples.training(5)[0].tobytes() != trained_on.tobytes()


def entries(folder: Path, count: int = 10) -> Path:
    """A file of answered questions."""
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    path = folder / "answers.jsonl"
    lines = [{"image": f"{i}.png", "question": f"What {i}?", "answer": f"It is {i}."} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_file_is_split_and_each_entry_comes_once_per_pass(tmp_path):
    examples = FileExamples(entries(tmp_path), seed=0, validation=100)
    held_out = {question for _, question, _ in examples.validation(100)}
    passes = [{examples.training(i)[1] for i in range(n * 8, n * 8 + 8)} for n in range(3)]
    assert len(held_out) == 2
    assert passes[0] == passes[1] == passes[2] == {f"What {i}?" for i in range(10)} - held_out
    first, second = ([examples.training(n * 8 + i)[1] for i in range(8)] for n in range(2))
    assert first != second
    assert examples.description["training"] == 8
    assert len(FileExamples(tmp_path / "answers.jsonl", 0, 100, limit=4).entries) == 4


def test_a_predictor_trains_on_a_file(model, tmp_path, capsys):
    recipe = json.dumps({**SMALL, "steps": 2, "ranking": "linear", "ranking_steps": 2, "lagged": [1]})
    output = tmp_path / "predictor"
    arguments = ["train-predictor", "--model", str(model), "--recipe", recipe, "--output", str(output)]
    assert cli.main([*arguments, "--data", str(entries(tmp_path)), "--limit", "8"]) == 0
    printed = capsys.readouterr().out
    assert "visual tokens kept from layer 1 on: prefill" in printed
    record = read_record(output)
    assert record["data"] | {"sha256": ""} == {
        "source": "answers.jsonl",
        "sha256": "",
        "training": 7,
        "validation": 1,
    }
    assert [point["part"] for point in record["curve"]] == ["ranking", "rate"]


def test_parquet_with_answers_is_read(tmp_path):
    data = {"bytes": (entries(tmp_path).parent / "1.png").read_bytes(), "path": None}
    rows = [{"image": data, "question": "Q", "answer": "A"}] * 3
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    image, question, answer = FileExamples(tmp_path / "t.parquet", 0, 1).training(0)
    assert (image.getpixel((0, 0)), question, answer) == ((1, 0, 0), "Q", "A")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "0.png", "question": "Q"}', 'line 1.*"question": text, "answer": text'),
        ('{"image": "0.png", "question": "Q", "answer": 3}', "line 1.*expected"),
        ('{"image": "0.png", "question": "Q", "answer": "A"}', "1 answered questions; at least 2"),
        ("", "0 answered questions"),
    ],
)
def test_mistakes_in_the_data_are_explained(text, message, tmp_path):
    entries(tmp_path).write_text(text)
    with pytest.raises(DyrateError, match=message):
        FileExamples(tmp_path / "answers.jsonl", 0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "5"], "--limit 5: expected.*--data"),
        (["--recipe", '{"stepz": 1}'], "did you mean 'steps'"),
        (["--recipe", '{"layer": 9}'], "there is no layer 9"),
        (["--data", "none.txt"], "expected a .jsonl or .parquet file"),
        (["--device", "abacus"], "is no device"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, message, model, tmp_path, capsys):
    base = ["train-predictor", "--model", str(model), "--output", str(tmp_path / "out")]
    assert cli.main([*base, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dyrate: error: ")
    assert re.search(message, error)


def test_an_output_that_is_a_file_is_explained(model, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DyrateError, match="cannot be made a folder"):
        train_predictor(Training(model=str(model), recipe=SMALL, output=tmp_path / "out"))


def test_two_processes_do_not_train_into_one_folder(model, tmp_path):
    job = Training(model=str(model), recipe=SMALL, output=tmp_path)
    with files.only_one(tmp_path, "x"), pytest.raises(DyrateError, match="another process is training there"):
        train_predictor(job)
