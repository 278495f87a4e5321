"""The paper's rules for real and offline: stand-ins in the layout of the hub's checkpoints and data sets."""

import csv
from pathlib import Path
from statistics import fmean

import lmms_eval.tasks
import pytest
import torch
import yaml
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from dyrate.bench.models import inputs, random_model
from dyrate.cost.shapes import ModelShape, TextShape, VisionShape
from dyrate.cost.work import work_of
from dyrate.evaluation.results import read
from dyrate.registry import load_method
from dyrate.study import Study
from dyrate.testbed.benchmarks.build import build
from tests.evaluation.stand_in_adapters import make_instructblip

# The chat template of llava-hf/llava-1.5-7b-hf.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
HUB_TASKS = {
    "pope": ("pope", "pope/pope.yaml", "test"),
    "sqa": ("scienceqa_img", "scienceqa/scienceqa_img.yaml", "test"),
    "mme": ("mme", "mme/mme.yaml", "test"),
    "nocaps": ("nocaps_val", "nocaps/nocaps_val.yaml", "validation"),
}


def save_checkpoint(folder: Path, layers: int = 32, tower: int = 3) -> None:
    """LLaVA-1.5-7B's layout and depth, 32 wide: 576 visual tokens, Llama's tokenizer with byte fallback."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokenizer = LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side = {"height": 336, "width": 336}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 4096, "initializer_range": 0.3}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(num_hidden_layers=tower, image_size=336, patch_size=14, **width),
        text_config=LlamaConfig(num_hidden_layers=layers, **width, **text),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).to(torch.float16).save_pretrained(folder)


def save_tasks(folder: Path) -> None:
    """lmms-eval's own task files, but for where the rows come from."""
    build(HUB_TASKS, 4, 0, folder)
    for benchmark, (task, path, split) in HUB_TASKS.items():
        source = Path(lmms_eval.tasks.__file__).parent / path
        local = {"data_files": {split: f"{benchmark}.parquet"}}
        text = {"include": str(source), "task": task, "dataset_path": "parquet", "dataset_kwargs": local}
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(text))


NARROW = ModelShape(
    TextShape(layers=32, hidden=64, intermediate=64, heads=2, kv_heads=2, head_dim=32, vocabulary=256),
    VisionShape(layers=24, hidden=64, intermediate=64, patches=576, patch_inputs=588),
)
"""LLaVA-1.5-7B's depths and tokens."""


@pytest.mark.slow
def test_every_method_of_the_papers_config_keeps_its_budget_at_that_depth():
    methods = Study.read(Path(__file__).parents[2] / "config/paper.yaml").methods
    model = random_model(NARROW, torch.device("cpu"), torch.float32)
    asked = inputs(model, 1, 640, 0)
    seen = set()
    for spec in (method.spec for method in methods if method.predictor is None):
        loaded = load_method(spec)
        loaded.check(32, 32)
        if loaded in seen:
            continue
        seen.add(loaded)
        with torch.no_grad(), loaded(model) as run:
            model.generate(**asked, max_new_tokens=2, do_sample=False)
        tokens = [length - 64 for length in work_of(run, loaded).prefill.tokens]
        if "budget" in spec:
            assert fmean(tokens) / 576 == pytest.approx(spec["budget"], abs=0.03), spec
    assert len(seen) > 50


@pytest.mark.slow
def test_the_papers_rules_run_on_stand_ins(project):
    save_checkpoint(project.folder / "models/stand-in")
    make_instructblip(project.folder / "models/instructblip")
    save_tasks(project.folder / "tasks")
    stand_ins = {
        "tasks": "tasks",
        "samples": 4,
        "device": "cpu",
        "dtype": "float32",
        "resources": {"gpu": 0},
        "models": [
            {"name": "llava-1.5-7b", "path": "models/stand-in", "published": "LLaVA-1.5-7B"},
            {
                "name": "InstructBLIP-7B",
                "adapter": "instructblip",
                "arguments": {"pretrained": "models/instructblip"},
                "cut_prompt": True,
                "published": "InstructBLIP (7B)",
            },
        ],
        "methods": [
            entry
            for entry in yaml.safe_load((project.folder / "config/paper.yaml").read_text())["methods"]
            if (entry["name"], entry.get("layer"), "group" in entry)
            in {("none", None, False), ("fastv", 2, False)}
        ],
        "benchmarks": list(HUB_TASKS),
        "trace": {"benchmarks": ["nocaps"], "samples": 2},
        "latency": {"benchmark": "nocaps", "new_tokens": 2, "rounds": 1},
    }
    (project.folder / "stand-ins.yaml").write_text(yaml.safe_dump(stand_ins))

    project.snakemake("--configfile", "config/paper.yaml", "stand-ins.yaml")

    fastv = read(project.folder / "results/paper/llava-1.5-7b/fastv-layer=2-rate=0.5/greedy.json")
    assert {name: found["task"] for name, found in fastv["benchmarks"].items()} == {
        name: task for name, (task, _, _) in HUB_TASKS.items()
    }
    for found in fastv["benchmarks"].values():
        assert found["visual_tokens"]["prefill"] == [576.0] * 2 + [288.0] * 30
    for table, names in (("table1", {"pope", "sqa", "mme"}), ("table2", {"nocaps"})):
        text = (project.folder / f"results/paper/tables/{table}.csv").read_text()
        mine = [line for line in csv.DictReader(text.splitlines()) if line["method"] == fastv["label"]]
        assert {line["benchmark"] for line in mine if line["difference"]} == names
    blip = read(project.folder / "results/paper/InstructBLIP-7B/none/greedy.json")
    assert blip["meta"]["adapter"]["arguments"] == {"pretrained": "models/instructblip"}
    assert {name: found["samples"] for name, found in blip["benchmarks"].items()} == {
        name: found["samples"] for name, found in fastv["benchmarks"].items()
    }
    traces = project.folder / "results/paper/trace"
    assert [path.name for path in traces.glob("*.json")] == ["llava-1.5-7b.json"]
    first = csv.DictReader((project.folder / "results/paper/tables/table1.csv").read_text().splitlines())
    pope = [line for line in first if (line["model"], line["benchmark"]) == ("InstructBLIP-7B", "pope")]
    assert [(line["published_row"], line["llm"], line["published"]) for line in pope] == [
        ("InstructBLIP", "Vicuna-7B", "79.8")
    ]
    lines = csv.DictReader((project.folder / "results/paper/tables/table2.csv").read_text().splitlines())
    rows = {(line["published_row"], line["benchmark"]): line for line in lines if line["value"]}
    assert rows["FastV(K=2,R=0.5)", "nocaps"]["published"] == "74.86"
    assert (
        "need not be on the paper’s benchmarks" in (project.folder / "reports/paper/index.html").read_text()
    )
