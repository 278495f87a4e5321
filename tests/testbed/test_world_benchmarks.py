"""The eleven benchmarks: same bytes, the hub's schemas, lmms-eval's own prompts and scores, no give-aways."""

import copy
import io
import re
from collections import Counter, defaultdict
from importlib import import_module
from pathlib import Path

import datasets
import lmms_eval.tasks
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.testbed.benchmarks.annotators import Crowd, annotate
from dyrate.testbed.benchmarks.build import build, rows
from dyrate.testbed.benchmarks.multiple_choice import ROTATIONS
from dyrate.testbed.benchmarks.schemas import COLUMNS
from dyrate.testbed.benchmarks.specs import BENCHMARKS
from dyrate.testbed.benchmarks.yes_no import MME_CATEGORIES
from dyrate.testbed.world import prompts
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import training_example
from dyrate.testbed.world.question_kinds import ASKERS
from dyrate.testbed.world.vocabulary import HELD_OUT

SAMPLES = 96
TASKS = {
    "gqa": ("gqa/gqa.yaml", "gqa.utils", "gqa"),
    "vizwiz": ("vizwiz_vqa/_default_template_vqa_yaml", "vizwiz_vqa.utils", "vizwiz_vqa"),
    "sqa": ("scienceqa/scienceqa_img.yaml", "scienceqa.utils", "sqa"),
    "vqav2": ("vqav2/_default_template_vqav2_yaml", "vqav2.utils", "vqav2"),
    "textvqa": ("textvqa/_default_template_textvqa_yaml", "textvqa.utils", "textvqa"),
    "pope": ("pope/pope.yaml", "pope.utils", "pope"),
    "mmb": ("mmbench/_default_template_mmbench_en_yaml", "mmbench.en_utils", "mmbench"),
    "mme": ("mme/mme.yaml", "mme.utils", "mme"),
    "nocaps": ("nocaps/_default_template_nocaps_yaml", "nocaps.utils", "nocaps"),
    "flickr30k": ("flickr30k/flickr30k_test.yaml", "flickr30k.utils", "flickr"),
    "coco2017": ("coco_cap/coco2017_cap_val.yaml", "coco_cap.utils", "coco"),
}
"""Benchmark to lmms-eval's file with its prompt's ending, its module, and the prefix of its functions."""


class Settings(yaml.SafeLoader):
    """Reads lmms-eval's task files, whose functions it leaves out."""


Settings.add_constructor("!function", lambda loader, node: None)


def utils(name: str):
    return import_module(f"lmms_eval.tasks.{TASKS[name][1]}")


def prompt_of_harness(name: str, doc: dict) -> str:
    """The prompt that lmms-eval's own task makes of a row."""
    file, _, prefix = TASKS[name]
    settings = yaml.load((Path(lmms_eval.tasks.__file__).parent / file).read_text(), Settings)  # noqa: S506
    to_text = getattr(utils(name), f"{prefix}_doc_to_text")
    arguments = settings.get("lmms_eval_specific_kwargs", {}).get("default")
    return to_text(doc, arguments) if arguments else to_text(doc)


def prompt_of_world(name: str, doc: dict) -> str:
    """The prompt in the style in which the world trains."""
    match name:
        case "vizwiz":
            return prompts.vizwiz_prompt(doc["question"])
        case "textvqa":
            return prompts.textvqa_prompt(doc["question"])
        case "sqa":
            return prompts.scienceqa_prompt(doc["question"], doc["choices"], doc["hint"])
        case "mmb":
            hint = "" if doc["hint"] == "nan" else doc["hint"]
            return prompts.mmbench_prompt(doc["question"], [doc[letter] for letter in "ABCD"], hint)
        case "nocaps" | "flickr30k" | "coco2017":
            return prompts.CAPTION
        case _:
            return prompts.short_prompt(doc["question"].removesuffix(" Please answer yes or no."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("testbed")
    build(BENCHMARKS, SAMPLES, 0, path)
    return path


def load(folder: Path, name: str) -> datasets.Dataset:
    files = {"test": str(folder / f"{name}.parquet")}
    return datasets.load_dataset("parquet", data_files=files, split="test", cache_dir=str(folder / "cache"))


def perfect(folder: Path, name: str) -> list[str]:
    return pq.read_table(folder / f"{name}.oracle.parquet")["answer"].to_pylist()


def test_every_benchmark_has_its_own_maker_and_a_schema():
    assert set(BENCHMARKS) == set(COLUMNS) == set(TASKS)
    for name, spec in BENCHMARKS.items():
        assert spec.maker.__name__ == name
        assert set(spec.kinds) <= set(ASKERS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_same_seed_gives_the_same_bytes(name: str, folder: Path, tmp_path: Path):
    few = 12
    first, second, other = (tmp_path / part for part in ("first", "second", "other"))
    for path, seed in ((first, 0), (second, 0), (other, 1)):
        build([name], few, seed, path)
    for file in (f"{name}.parquet", f"{name}.oracle.parquet"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert (first / f"{name}.parquet").read_bytes() != (other / f"{name}.parquet").read_bytes()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_smaller_build_is_the_beginning_of_a_larger_one(name: str, folder: Path):
    few = [item.row for item in rows(name, 12, 0)]
    assert pq.read_table(folder / f"{name}.parquet").slice(0, len(few)).to_pylist() == few


@pytest.mark.parametrize("name", BENCHMARKS)
def test_files_load_with_the_columns_of_the_hubs(name: str, folder: Path):
    data = load(folder, name)
    assert data.features == COLUMNS[name]
    assert SAMPLES <= len(data) < SAMPLES + 6
    image = data[0]["image"].convert("RGB")
    assert image.size == (168, 168)
    assert len(perfect(folder, name)) == len(data)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_prompts_equal_those_of_lmms_eval(name: str, folder: Path):
    for doc in load(folder, name).remove_columns("image"):
        assert prompt_of_world(name, doc) == prompt_of_harness(name, {**doc, "image": None})


def test_training_prompts_are_in_the_benchmarks_styles():
    ends = (prompts.SHORT, prompts.VIZWIZ, prompts.LETTER, prompts.CAPTION)
    for index in range(200):
        for turn in training_example(0, index).turns:
            assert turn.prompt.endswith(ends)
            if turn.prompt.endswith(prompts.LETTER):
                listed = re.findall(r"^([A-D])\. (.+)$", turn.prompt, re.MULTILINE)
                assert turn.answer in dict(listed)
                assert len(dict(listed)) == len({option for _, option in listed})


@pytest.mark.parametrize(
    ("name", "process", "attainable"),
    [
        ("vizwiz", "vizwiz_vqa_process_results", 0.93),
        ("sqa", "sqa_process_results", 1.0),
        ("vqav2", "vqav2_process_results_val", 0.95),
        ("textvqa", "textvqa_process_results", 0.95),
    ],
)
def test_the_perfect_answers_score_what_annotators_allow(
    name: str, process: str, attainable: float, folder: Path
):
    score = getattr(utils(name), process)
    pairs = zip(load(folder, name).remove_columns("image"), perfect(folder, name), strict=True)
    scores = [score(copy.deepcopy(doc), [answer])["exact_match"] for doc, answer in pairs]
    assert sum(scores) / len(scores) >= attainable


def test_the_perfect_answers_of_gqa_are_its_answers(folder: Path):
    assert load(folder, "gqa")["answer"] == perfect(folder, "gqa")


def test_pope_is_balanced_and_its_perfect_answers_score_100(folder: Path):
    data, pope = load(folder, "pope").remove_columns("image"), utils("pope")
    results = [
        pope.pope_process_results(doc, [answer])["pope_accuracy"]
        for doc, answer in zip(data, perfect(folder, "pope"), strict=True)
    ]
    assert pope.pope_aggregate_accuracy(results) == 1.0
    assert Counter(zip(data["category"], data["answer"], strict=True)) == dict.fromkeys(
        [(c, a) for c in ("random", "popular", "adversarial") for a in ("yes", "no")], len(data) / 6
    )


def test_mme_has_pairs_and_its_perfect_answers_score_200_a_category(folder: Path):
    data, mme = load(folder, "mme"), utils("mme")
    pairs = defaultdict(list)
    for doc in data:
        pairs[doc["question_id"]].append(doc)
    for first, second in pairs.values():
        assert {first["answer"], second["answer"]} == {"Yes", "No"}
        assert first["category"] == second["category"]
        assert first["image"].tobytes() == second["image"].tobytes()
        assert first["question"] != second["question"]
    results = defaultdict(list)
    for doc, answer in zip(data.remove_columns("image"), perfect(folder, "mme"), strict=True):
        for metric, result in mme.mme_process_results(doc, [answer]).items():
            results[metric].append(result)
    assert mme.mme_aggregate_results(results["mme_perception_score"]) == 200 * 6
    assert mme.mme_aggregate_results(results["mme_cognition_score"]) == 200 * 2
    known = {name for names in mme.eval_type_dict.values() for name in names}
    assert set(MME_CATEGORIES) <= known


def test_mmbench_has_all_rotations_and_its_perfect_answers_score_100(folder: Path):
    data, mmb = load(folder, "mmb").remove_columns("image"), utils("mmb")
    groups = defaultdict(list)
    for doc in data:
        groups[doc["index"] % 1_000_000].append(doc)
    for group in groups.values():
        assert len(group) == ROTATIONS
        assert {doc["answer"] for doc in group} == set("ABCD")
        assert len({doc[doc["answer"]] for doc in group}) == 1, "the right option is the same text"
        assert len({tuple(sorted(doc[letter] for letter in "ABCD")) for doc in group}) == 1
        assert [doc["index"] // 1_000_000 for doc in group] == list(range(ROTATIONS))
    answers = perfect(folder, "mmb")

    def circular(predictions: list[str]) -> float:
        results = [
            mmb.mmbench_process_results(doc, [prediction])["gpt_eval_score"]
            for doc, prediction in zip(data, predictions, strict=True)
        ]
        return mmb.mmbench_evaluator.eval_result(results, eval_method="static")[0]

    assert circular(answers) == 1.0
    assert circular(["A"] * len(answers)) == 0.0, "one letter for all scores nothing"
    one_wrong = [("B" if answers[0] == "A" else "A"), *answers[1:]]
    assert circular(one_wrong) == pytest.approx(1 - 1 / len(groups)), "one wrong rotation costs the question"


@pytest.mark.parametrize(
    ("name", "column"), [("nocaps", "annotations_captions"), ("flickr30k", "caption"), ("coco2017", "answer")]
)
def test_images_have_five_different_captions_that_lmms_eval_reads(name: str, column: str, folder: Path):
    data = load(folder, name).remove_columns("image")
    singular = {"nocaps": "nocaps", "flickr30k": "flickr", "coco2017": "coco"}[name]
    process = getattr(utils(name), f"{singular}_process_result")
    identities = set()
    for doc, answer in zip(data, perfect(folder, name), strict=True):
        result = process(doc, [answer])[f"{singular}_CIDEr"]
        assert result["answer"] == doc[column]
        assert len(set(doc[column])) == 5
        assert result["pred"] in doc[column]
        identities.add(int(result["image_id"]))
    assert len(identities) == len(data)


def test_nocaps_domains_take_turns(folder: Path):
    domains = pq.read_table(folder / "nocaps.oracle.parquet")["domain"].to_pylist()
    captions = load(folder, "nocaps")["annotations_captions"]
    named = re.compile("|".join(rf"\b{color} {shape}" for color, shape in HELD_OUT))
    for number, (domain, texts) in enumerate(zip(domains, captions, strict=True)):
        assert domain == ("in-domain", "near-domain", "out-domain")[number % 3]
        if domain == "in-domain":
            assert not any(map(named.search, texts))
        if domain == "out-domain":
            assert all(map(named.search, texts))


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"nocaps"}))
def test_only_nocaps_has_held_out_pairs(name: str, folder: Path):
    named = re.compile("|".join(rf"\b{color} {shape}" for color, shape in HELD_OUT))
    for doc in load(folder, name).remove_columns("image"):
        assert not named.search(str(doc))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("gqa", 0.25),
        ("vizwiz", 0.3),
        ("sqa", 0.45),
        ("vqav2", 0.25),
        ("textvqa", 0.1),
        ("pope", 0.5),
        ("mmb", 0.25),
        ("mme", 0.5),
    ],
)
def test_no_answer_is_a_good_guess(name: str, most: float):
    answers = Counter(item.answer for item in rows(name, 240, 5))
    assert answers.most_common(1)[0][1] <= most * answers.total()


def test_images_of_different_benchmarks_differ():
    seen: set[bytes] = set()
    for name in BENCHMARKS:
        images = {item.row["image"]["bytes"] for item in rows(name, 12, 0)}
        assert not images & seen
        seen |= images


def test_annotators_disagree_as_told():
    crowd = Crowd(strays=0.2, contested=0.0, gives_up=0.5)
    given = [annotate("red", crowd, Draw("crowd", i)) for i in range(300)]
    answers = Counter(answer for answers in given for answer in answers)
    assert all(len(answers) == 10 for answers in given)
    assert 0.77 < answers["red"] / answers.total() < 0.83
    assert 0.08 < answers["unanswerable"] / answers.total() < 0.12
    contested = annotate("red", Crowd(strays=0.0, contested=1.0, gives_up=0.0), Draw("crowd"))
    assert 2 <= contested.count("red") <= 3


def test_unknown_names_and_empty_builds_are_refused(tmp_path: Path):
    with pytest.raises(DyrateError, match="unknown benchmark 'popes': did you mean 'pope'"):
        build(["popes"], 5, 0, tmp_path)
    with pytest.raises(DyrateError, match="0 samples"):
        build(["pope"], 0, 0, tmp_path)


def test_images_of_other_sizes_are_the_same_scenes_and_the_same_for_a_group(tmp_path):
    """Sizes are drawn by what an image shows; nothing else of a row changes but what tells the size."""
    build(["pope", "nocaps"], 24, 0, tmp_path / "plain")
    build(["pope", "nocaps"], 24, 0, tmp_path / "sized", sides=(140, 196))
    for name in ("pope", "nocaps"):
        plain, sized = (
            pq.read_table(tmp_path / kind / f"{name}.parquet").to_pylist() for kind in ("plain", "sized")
        )
        sides = [Image.open(io.BytesIO(row["image"]["bytes"])).size for row in sized]
        assert {*sides} <= {(140, 140), (196, 196)}
        assert len({*sides}) == 2 or name == "pope", "which has four images"
        for before, after, (side, _) in zip(plain, sized, sides, strict=True):
            expected = Image.open(io.BytesIO(before["image"]["bytes"])).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            assert Image.open(io.BytesIO(after["image"]["bytes"])).tobytes() == expected.tobytes()
            told = {key: side for key in ("image_width", "image_height") if key in before}
            assert {**before, **told, "image": None} == {**after, "image": None}
    with pytest.raises(DyrateError, match="sides: an image cannot be 0 pixels wide"):
        build(["pope"], 6, 0, tmp_path, sides=(0, 140))
