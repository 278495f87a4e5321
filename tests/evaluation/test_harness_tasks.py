"""Loading tasks: the right files, whole units, and rows that keep their number."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmms_eval.tasks
import PIL.Image
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import LocalTokenNotFoundError

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, Cut, select
from dyrate.evaluation.harness_tasks import _loading_as_anybody, choose_rows, load_tasks

MME = BENCHMARKS["mme"]
MMB = BENCHMARKS["mmb"]


def test_a_limit_takes_the_first_rows() -> None:
    data = Dataset.from_dict({"question": list("abcdef")})
    assert list(choose_rows(BENCHMARKS["gqa"], data, 4)) == [0, 1, 2, 3]
    assert list(choose_rows(BENCHMARKS["gqa"], data, None)) == list(range(6))
    assert list(choose_rows(BENCHMARKS["gqa"], data, 99)) == list(range(6))


def test_mme_pairs_stay_whole_and_come_from_all_categories_in_turn() -> None:
    data = Dataset.from_dict(
        {"question_id": list("aabbccdd"), "category": ["color"] * 4 + ["count"] * 4, "x": range(8)}
    )
    assert list(choose_rows(MME, data, 4)) == [0, 1, 4, 5]
    assert list(choose_rows(MME, data, 5)) == [0, 1, 2, 3, 4, 5]  # a limit inside a pair takes it whole
    assert list(choose_rows(MME, data, 1)) == [0, 1]


def test_mmb_rotations_stay_whole_though_they_stand_far_apart() -> None:
    index = [7, 8, 1_000_007, 2_000_007, 1_000_008]
    data = Dataset.from_dict({"index": index, "x": range(5)})
    assert list(choose_rows(MMB, data, 2)) == [0, 2, 3]
    assert list(choose_rows(MMB, data, 4)) == [0, 1, 2, 3, 4]


def test_drawn_rows_are_the_same_each_time_and_those_of_a_larger_limit() -> None:
    data = Dataset.from_dict({"question": [str(number) for number in range(2000)]})
    few, many = (choose_rows(BENCHMARKS["gqa"], data, count, drawn=True) for count in (50, 500))
    assert few == choose_rows(BENCHMARKS["gqa"], data, 50, drawn=True)
    assert len(few) == 50
    assert list(few) == sorted(few)
    assert set(few) < set(many)
    assert abs(sum(many) / 500 - 1000) < 80  # three standard errors: from everywhere, not the first ones


def test_drawn_pairs_stay_whole_and_come_from_all_categories_in_turn() -> None:
    names = [name for name in "abcdefghijklmnop" for _ in range(2)]
    data = Dataset.from_dict({"question_id": names, "category": ["color"] * 16 + ["count"] * 16})
    rows = choose_rows(MME, data, 8, drawn=True)
    assert len(rows) == 8
    assert sum(row < 16 for row in rows) == 4
    assert {names[row] for row in rows} == {names[row] for row in rows if names.index(names[row]) == row}
    assert list(rows) != list(choose_rows(MME, data, 8))


def test_a_limit_holds_for_the_rows_of_a_subset() -> None:
    data = Dataset.from_dict({"question": list("abcdefgh")})
    assert list(choose_rows(BENCHMARKS["flickr30k"], data, None, among=[1, 3, 7])) == [1, 3, 7]
    assert list(choose_rows(BENCHMARKS["flickr30k"], data, 2, among=[1, 3, 7])) == [1, 3]


def test_a_subset_is_told_by_its_column(data: Path, tmp_path: Path) -> None:
    rows = Dataset.from_parquet(str(data / "flickr30k.parquet"))
    kinds = ["train", "test", "val"] * 4
    rows.add_column("split", kinds).to_parquet(tmp_path / "flickr30k.parquet")
    flickr = select(["flickr30k"])
    (loaded,) = load_tasks(flickr, "testbed", tmp_path, [Cut(subset="karpathy-test")])
    assert list(loaded.rows) == [1, 4, 7, 10]
    (fewer,) = load_tasks(flickr, "testbed", tmp_path, [Cut(2, "karpathy-test")])
    assert list(fewer.rows) == [1, 4]
    with pytest.raises(DyrateError, match="has no column 'split', which says what is karpathy-test"):
        load_tasks(flickr, "testbed", data, [Cut(subset="karpathy-test")])
    with pytest.raises(
        DyrateError, match="flickr30k: has no subset 'karpathy'; did you mean 'karpathy-test'"
    ):
        load_tasks(flickr, "testbed", data, [Cut(subset="karpathy")])


def test_a_column_that_is_missing_is_named() -> None:
    data = Dataset.from_dict({"question_id": list("aabb")})
    with pytest.raises(DyrateError, match="the data of mme has no column 'category'"):
        choose_rows(MME, data, 2)


def test_every_testbed_task_loads_from_local_files(data: Path) -> None:
    local = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.testbed}
    tasks = load_tasks(tuple(local.values()), "testbed", data, 4)
    assert [loaded.name for loaded in tasks] == [f"{name}_testbed" for name in local]
    with pytest.raises(DyrateError, match=r"it has no rows of MMMU \(mmmu\); the hub has"):
        load_tasks(select(["mmmu"]), "testbed", data, 4)
    for loaded in tasks:
        documents = loaded.task.test_docs()
        assert len(documents) == len(loaded.rows) == 4
        visuals = loaded.task.doc_to_visual(documents[0])
        assert visuals[0].mode == "RGB"
        assert len(loaded.data_hash) == 64


def test_a_folder_of_task_files_stands_in_for_the_hub(data: Path, tmp_path: Path) -> None:
    import lmms_eval.tasks

    theirs = Path(lmms_eval.tasks.__file__).parent / "vizwiz_vqa"
    text = (theirs / "_default_template_vqa_yaml").read_text() + (theirs / "vizwiz_vqa_val.yaml").read_text()
    text = text.replace("include: _default_template_vqa_yaml", "").replace(
        "!function utils.", "!function lmms_eval.tasks.vizwiz_vqa.utils."
    )
    text = text.replace(
        "dataset_path: lmms-lab-encoder/VizWiz-VQA",
        "dataset_path: parquet\ndataset_kwargs:\n  data_files:\n    val: vizwiz.parquet",
    )
    (tmp_path / "vizwiz_vqa_val.yaml").write_text(text)
    (loaded,) = load_tasks(select(["vizwiz"]), str(tmp_path), data, 3)
    assert loaded.name == "vizwiz_vqa_val"
    assert loaded.task.config.generation_kwargs["max_new_tokens"] == 16  # lmms-eval's task has no limit
    (tmp_path / "vizwiz.parquet").write_bytes((data / "vizwiz.parquet").read_bytes())
    (beside,) = load_tasks(select(["vizwiz"]), str(tmp_path), None, 3)
    assert beside.data_hash == loaded.data_hash


def test_what_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DyrateError,
        match=r"gqa.parquet: no such file \(data of task gqa_testbed\); `dyrate testbed build` makes it",
    ):
        load_tasks(select(["gqa"]), "testbed", tmp_path, None)
    with pytest.raises(DyrateError, match="--tasks testbad: no such folder, and not one of testbed, hub"):
        load_tasks(select(["gqa"]), "testbad", data, None)
    with pytest.raises(DyrateError, match="no task file defines 'gqa', the task of benchmark gqa"):
        load_tasks(select(["gqa"]), str(tmp_path), data, None)


def test_primary_only_leaves_each_benchmark_what_its_primary_metric_needs(data: Path) -> None:
    chosen = select(["nocaps", "mme", "pope", "mmb"])
    loaded = load_tasks(chosen, "testbed", data, 2, primary_only=True)
    kept = [[entry["metric"] for entry in task.task.config.metric_list] for task in loaded]
    everything = load_tasks(chosen, "testbed", data, 2)
    assert kept[0] == ["nocaps_CIDEr"]
    for benchmark, names, full in zip(chosen[1:], kept[1:], everything[1:], strict=True):
        known = [entry["metric"] for entry in full.task.config.metric_list]
        assert names == [name for name in known if name in benchmark.primary.harness] or names == known
        assert set(benchmark.primary.harness) <= set(names)


def refusing(rows: Dataset) -> Callable[..., Any]:
    """`load_dataset` as it is without a login: it refuses where one is insisted on."""

    def load(*arguments: Any, **given: Any) -> Any:
        if given.get("token") is True:
            raise LocalTokenNotFoundError("Token is required (`token=True`), but no token found.")
        return rows if "split" in given else DatasetDict({"test": rows})

    return load


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder of task files, whose pope has its data on the hub, as lmms-eval's own."""
    theirs = Path(lmms_eval.tasks.__file__).parent / "pope/pope.yaml"
    assert "token: True" in theirs.read_text(), "lmms-eval insists no longer: what is done about it can go"
    (tmp_path / "pope.yaml").write_text(f"include: {theirs}\ntask: pope\n")
    return str(tmp_path)


def test_public_data_of_the_hub_needs_no_login(
    data: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", refusing(Dataset.from_parquet(str(data / "pope.parquet"))))

    (loaded,) = load_tasks(select(["pope"]), folder, None, 3)

    assert (loaded.name, len(loaded.rows)) == ("pope", 3)


def test_neither_do_gqas_images_which_its_own_function_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.tasks.gqa import utils

    images = [{"id": "7", "image": PIL.Image.new("RGB", (2, 2))}]
    monkeypatch.setattr(utils, "load_dataset", refusing(images))  # type: ignore[arg-type]
    asked = SimpleNamespace(map=lambda function, **_: function({"imageId": "7"}))

    with pytest.raises(LocalTokenNotFoundError):
        utils.gqa_process_docs(asked)
    with _loading_as_anybody(utils.gqa_process_docs):
        assert utils.gqa_process_docs(asked)["image"].size == (2, 2)
    with pytest.raises(LocalTokenNotFoundError):
        utils.gqa_process_docs(asked)


@pytest.mark.parametrize(
    ("said", "cured"),
    [
        ("Dataset 'x/y' is a gated dataset on the Hub. You must be authenticated to access it.", True),
        ("401 Client Error: Unauthorized for url: https://hub/api/datasets/x", True),
        ("Couldn't reach 'x/y' on the Hub (ConnectionError)", False),
        ("no tokenizer; 1401 rows", False),
    ],
)
def test_where_the_hub_wants_a_login_the_error_says_how(
    said: str, cured: bool, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **given: Any) -> Any:
        raise DatasetNotFoundError(said)

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)

    with pytest.raises(DyrateError) as refused:
        load_tasks(select(["pope"]), folder, None, 3)

    assert f"task pope (lmms-lab-encoder/POPE): the data cannot be read: {said}" in str(refused.value)
    assert ("`hf auth login`, or set HF_TOKEN" in str(refused.value)) == cured
