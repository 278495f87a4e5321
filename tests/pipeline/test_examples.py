"""The three ways to add a baseline: each example is executed."""

import csv
from pathlib import Path

import pytest
import torch

from dyrate.registry import load_method
from tests.tiny import VISUAL_TOKENS, tiny_inputs, tiny_llava

REPOSITORY = Path(__file__).parents[2]
CENTRE = {"name": "examples/methods/centre_tokens.py:CentreTokens", "layer": 2, "rate": 0.75}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_method_in_one_file_keeps_the_images_centre(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    model = tiny_llava()

    with load_method(CENTRE)(model) as run:
        model.generate(**tiny_inputs([7, 4]), max_new_tokens=2, do_sample=False)

    for row in range(2):  # a 4 x 4 image: its inner 2 x 2
        torch.testing.assert_close(run.kept[2][row].cpu(), torch.tensor([5, 6, 9, 10]))
    assert int(run.visual_tokens[0]) == VISUAL_TOKENS


def test_that_file_has_at_most_20_lines():
    assert len((REPOSITORY / "examples/methods/centre_tokens.py").read_text().splitlines()) <= 20


def test_somebody_elses_module_gets_a_row_in_the_tables(project):
    project.make_up_results("config/smoke.yaml")

    output = project.snakemake("--snakefile", "examples/external/Snakefile")

    assert "theirs_score" in output
    table = rows(project.folder / "results/smoke/tables/table1.csv")
    theirs = {line["benchmark"]: line for line in table if line["method"] == "Their method"}
    assert theirs["gqa"]["value"] == "52.0"
    assert theirs["pope"]["group"] == "Token reduction"
    assert "Their method" in (project.folder / "reports/smoke/index.html").read_text()


def tiny_model(folder: Path) -> None:
    """A random checkpoint in the testbed's layout, four layers deep."""
    from dyrate.testbed.models.architecture import Size, build_model, build_processor
    from dyrate.testbed.models.tokenizer import train_tokenizer
    from dyrate.testbed.world.examples import training_example

    texts = [turn.prompt + turn.answer for i in range(20) for turn in training_example(0, i).turns]
    tokenizer = train_tokenizer(texts)
    build_model(Size(2, 32, 1, 4, 32, 64), tokenizer, 0).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "label"),
    [("new_settings", "FastV (K=2, R=0.75)"), ("new_method", "Centre tokens (K=2, R=0.5)")],
)
def test_an_entry_in_the_config_gets_a_row_in_the_tables(project, study, label):
    tiny_model(project.folder / "models/testbed-s")

    project.snakemake("--configfile", f"examples/{study}.yaml", "--config", "samples=4")

    name = study.replace("_", "-")
    table = rows(project.folder / f"results/{name}/tables/table1.csv")
    mine = {line["benchmark"]: line for line in table if line["method"] == label}
    assert set(mine) == {"gqa", "pope"}
    assert all(line["difference"] for line in mine.values())
    assert (project.folder / f"reports/{name}/index.html").exists()
