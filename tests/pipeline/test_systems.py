"""A study's models that lmms-eval's adapters answer for: one evaluation each, and what is refused of them."""

from pathlib import Path
from typing import Any

import pytest

from dyrate.bench import study_jobs as timing
from dyrate.errors import DyrateError
from dyrate.study import Study, StudyError
from dyrate.study.fit import check_jobs
from dyrate.trace import study_jobs as tracing

REPOSITORY = Path(__file__).parents[2]
BLIP = {
    "name": "InstructBLIP-7B",
    "adapter": "instructblip",
    "arguments": {"pretrained": "Salesforce/instructblip-vicuna-7b"},
    "cut_prompt": True,
    "published": "InstructBLIP (7B)",
}
CONFIG: dict[str, Any] = {
    "study": "small",
    "tasks": "hub",
    "samples": 5,
    "models": [{"name": "llava", "path": "llava-hf/llava-1.5-7b-hf", "published": "LLaVA-1.5-7B"}, BLIP],
    "methods": [
        {"name": "none", "published": {"table1": "LLaVA v1.5", "table2": "Original"}},
        {"name": "fastv", "layer": 2, "rate": 0.5},
    ],
    "decodings": [{"name": "greedy"}, {"name": "beam-2"}],
    "benchmarks": ["gqa", "nocaps"],
    "trace": {"samples": 2},
    "latency": {"benchmark": "nocaps"},
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def with_blip(**change: Any) -> dict[str, Any]:
    return {**CONFIG, "models": [CONFIG["models"][0], {**BLIP, **change}]}


def test_a_system_has_one_evaluation() -> None:
    study = Study.of(CONFIG)

    jobs = [job for job in study.jobs if job.model.adapter]

    assert [job.result for job in jobs] == ["results/small/InstructBLIP-7B/none/greedy.json"]
    assert len(study.jobs) == 5
    assert len(study.sweeps[-1].jobs) == 1
    assert study.unpruned(jobs[0]) is jobs[0]
    assert '"adapter"' not in study.evaluations(study.sweeps[0])
    assert "InstructBLIP-7B" not in {*tracing.traced(study), *timing.timed(study)}
    assert study.evaluation(jobs[0]).command() == (
        "dyrate evaluate --benchmarks gqa nocaps --study small --model instructblip "
        """--model-name InstructBLIP-7B --method '{"name": "none"}' --decoding '{"name": "greedy"}' """
        "--tasks hub --data results/small/fetched --samples 5 --batch-size 16 --device auto --dtype auto "
        "--engine auto --seed 0 "
        """--adapter '{"arguments": {"pretrained": "Salesforce/instructblip-vicuna-7b"}, """
        """"cut_prompt": true}' """
        "--output results/small/InstructBLIP-7B/none"
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (with_blip(path="x"), "InstructBLIP-7B: exactly one of path and adapter must be given"),
        (
            with_blip(published="InstructBLIP"),
            "'InstructBLIP' is no row of Table I; did you mean 'InstructBLIP",
        ),
        (
            with_blip(trust_remote_code=True),
            "trust_remote_code: true needs a `revision`. A checkpoint may bring",
        ),
        (with_blip(revision="main"), "models.1: revision: 'main' is no commit of 40 hexadecimal digits"),
        (with_blip(argument={}), "models.1.argument is unknown; did you mean 'arguments'?"),
        (
            {**CONFIG, "models": [{"name": "a", "path": "x", "cut_prompt": True}]},
            "models.0: a: cut_prompt: belongs to an adapter, and there is none",
        ),
        (
            with_blip(chat_template="vicuna"),
            "InstructBLIP-7B: chat_template: is for checkpoints",
        ),
        (with_blip(pixels=[1, 2]), "InstructBLIP-7B: pixels: is for checkpoints"),
        (
            {**CONFIG, "models": [{"name": "a", "path": "o/x", "pixels": [9]}]},
            "models.0.pixels: 9: two numbers are expected, the least and the most pixels of an image",
        ),
        (
            {**CONFIG, "models": [{"name": "a", "path": "o/x", "pixels": [9, 3]}]},
            "models.0.pixels: 9 and 3: the first is the least, the second the most",
        ),
        (
            {**CONFIG, "models": [{"name": "a", "path": "o/x", "revision": "main"}]},
            "models.0: revision: 'main' is no commit of 40 hexadecimal digits",
        ),
        (
            {**CONFIG, "models": [*CONFIG["models"], {**BLIP, "name": "again"}]},
            "models: 'again' has the adapter instructblip with the arguments of 'InstructBLIP-7B'",
        ),
        (
            {
                **CONFIG,
                "methods": [*CONFIG["methods"], {"name": "vtw", "layer": 2, "models": [BLIP["name"]]}],
            },
            "'InstructBLIP-7B' is asked by its lmms-eval adapter, once, greedily and as it is",
        ),
        (
            {**CONFIG, "predictors": [{"name": "p", "models": [BLIP["name"]]}]},
            "neither methods nor predictors apply to it",
        ),
    ],
)
def test_what_does_not_apply_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError) as refused:
        Study.of(change, "x.yaml")

    assert complaint in str(refused.value)


def test_a_study_of_systems_alone_asks_for_nothing_else() -> None:
    alone = {**CONFIG, "models": [BLIP]}
    with pytest.raises(StudyError) as refused:
        Study.of(alone, "x.yaml")

    found = [line.removeprefix("x.yaml: ").partition(":")[0] for line in str(refused.value).splitlines()]
    assert found == ["trace", "latency", "methods"]
    plain = {key: value for key, value in alone.items() if key not in ("trace", "latency")}
    assert len(Study.of({**plain, "methods": [{"name": "none"}]}).jobs) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"adapter": "instructblp"},
            "models: InstructBLIP-7B: adapter instructblp: lmms-eval has none of that",
        ),
        ({"arguments": {"pretraned": "x"}}, "has no argument 'pretraned'; did you mean 'pretrained'?"),
        ({"arguments": {"pretrained": "./nowhere"}}, "models: InstructBLIP-7B: there is no folder ./nowhere"),
    ],
)
def test_planning_refuses_what_the_adapter_would(
    change: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DyrateError) as refused:
        check_jobs(Study.of(with_blip(**change)))

    assert complaint in str(refused.value)


def test_the_papers_example_of_a_system_is_one() -> None:
    text = (REPOSITORY / "config/paper.yaml").read_text("utf-8")
    lines = [line.replace("  # - {name: ", "  - {name: ", 1) for line in text.splitlines()]
    import yaml

    study = Study.of(yaml.safe_load("\n".join(lines)))

    systems = {model.name: model.system for model in study.models if model.system is not None}
    assert "InstructBLIP-7B" in systems
    assert all(system.trust_remote_code == (system.revision is not None) for system in systems.values())
