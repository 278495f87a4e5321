"""Plausible result files of a study, made up: for tests of what reads them."""

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from dyrate import predictor_config
from dyrate.bench import study_jobs as jobs
from dyrate.cost.work import schedule
from dyrate.evaluation.answers import write as write_answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.placement import settled
from dyrate.evaluation.results import ResultFiles, write
from dyrate.evaluation.scoring import Sample
from dyrate.files import write_json
from dyrate.study import Study, StudyJob, StudyPredictor
from tests.report.speed import fake as speed

LEVEL = {
    "none": 1.0, "fastv": 0.985, "vtw": 0.45, "random": 0.7, "uniform": 0.72, "downsample": 0.8,
    "dyrate": 0.99, "fixed_prune": 0.9, "depth_prune": 0.9,
}  # fmt: skip
LAYERS, V = {"testbed-s": 8, "testbed-m": 12}, 144.0
SHAPE = {
    "text": {
        "layers": 8, "hidden": 192, "intermediate": 512, "heads": 6, "kv_heads": 6, "head_dim": 32,
        "vocabulary": 1024,
    },
    "vision": {"layers": 5, "hidden": 160, "intermediate": 640, "patches": 144, "patch_inputs": 588},
}  # fmt: skip
RATES = {"default": 0.6, "lean": 0.9}  # of DyRate, by predictor
DOCS = 8
CAPTIONS = ["nocaps", "flickr30k", "coco2017"]
CONFIG: dict[str, Any] = {
    "study": "testbed",
    "models": [
        {"name": "testbed-s", "path": "models/testbed-s", "published": "LLaVA-1.5-7B"},
        {"name": "testbed-m", "path": "models/testbed-m", "published": "LLaVA-1.5-13B"},
    ],
    "methods": [
        {"name": "none", "published": {"table1": "LLaVA v1.5", "table2": "Original"}},
        {"name": "fastv", "layer": 3, "rate": 0.5, "published": {"table2": "FastV(K=3,R=0.5)"}},
        {
            "name": "fastv",
            "layer": 2,
            "rate": 0.5,
            "published": {"table1": "FastV", "table2": "FastV(K=2,R=0.5)"},
        },
        *(
            {
                "name": "vtw",
                "layer": layer,
                "models": [model],
                "published": {"table1": "VTW", "table2": "VTW(K=16,R=1)"},
            }
            for layer, model in ((4, "testbed-s"), (6, "testbed-m"))
        ),
        {"name": "random", "layer": 2, "rate": 0.5},
        {"name": "uniform", "layer": 2, "rate": 0.5},
        {"name": "downsample", "rate": 0.5},
        {"name": "text_only"},
    ],
    "benchmarks": [
        "gqa", "vizwiz", "sqa", "vqav2", "textvqa", "pope", "mmb", "mme", *CAPTIONS,
    ],
}  # fmt: skip
DYRATE = {"name": "dyrate", "predictor": "default", "layer": 2}
# The same study with DyRate, a sweep and the ablations.
WITH_DYRATE: dict[str, Any] = {
    **CONFIG,
    "predictors": [
        {"name": "default", "layer": 2, "kind": "mlp", "budget_weight": 0.1},
        {"name": "lean", "layer": 2, "kind": "mlp", "budget_weight": 1.0},
        {"name": "gru", "layer": 2, "kind": "gru", "budget_weight": 0.1},
    ],
    "methods": [
        *CONFIG["methods"],
        {**DYRATE, "published": {"table1": "DyRate", "table2": "DyRate"}},
        {**DYRATE, "predictor": "lean", "group": "budget"},
        {"name": "fastv", "layer": 2, "rate": 0.75, "group": "budget"},
        {
            "name": "depth_prune",
            "benchmarks": CAPTIONS,
            "group": "strategy",
            "published": {"strategy": "Ours(DP)"},
        },
        {"name": "none", "benchmarks": CAPTIONS, "decodings": ["beam-2"], "group": "decoding"},
        {**DYRATE, "benchmarks": CAPTIONS, "decodings": ["beam-2"], "group": "decoding"},
        {**DYRATE, "predictor": "gru", "benchmarks": ["gqa", "nocaps"], "group": "predictor"},
        {**DYRATE, "rates": "schedule", "benchmarks": ["gqa", "nocaps"], "group": "predictor"},
    ],
}


def label(spec: Mapping[str, Any]) -> str:
    fields = {"layer": "K", "rate": "R"}
    shown = {**spec, "predictor": Path(spec["predictor"]).name} if "predictor" in spec else spec
    inside = ", ".join(f"{fields.get(k, k)}={v}" for k, v in shown.items() if k != "name")
    names = {"fastv": "FastV", "vtw": "VTW", "none": "Unpruned", "dyrate": "DyRate"}
    name = names.get(spec["name"], spec["name"])
    return f"{name} ({inside})" if inside else name


def origin(job: StudyJob) -> str | None:
    if job.predictor is None:
        return None
    return "paper" if job.predictor.recipe.get("ranking", "attention") == "attention" else "ours"


def tokens(spec: Mapping[str, Any], layers: int) -> list[float]:
    default = {"none": 0.0, "dyrate": RATES.get(Path(spec.get("predictor", "")).name, 0.5)}
    kept = V * (1 - spec.get("rate", default.get(spec["name"], 1.0)))
    first = spec.get("layer", 0)
    return [V] * first + [kept] * (layers - first)


def result(job: StudyJob, study: Study, benchmarks: tuple[str, ...] | None = None) -> dict[str, Any]:
    spec, model = job.spec, job.model.name
    chance = random.Random(f"{spec} {model}")
    found = {}
    for name in benchmarks or job.method.benchmarks:
        benchmark = BENCHMARKS[name]
        top = {"points": 1450.0, "x100": 118.0}.get(benchmark.primary.unit, 84.0)
        top *= random.Random(name).uniform(0.85, 1.1) * (1.06 if model == "testbed-m" else 1.0)
        share = LEVEL.get(spec["name"], 0.4) * chance.uniform(0.92, 1.06) if spec["name"] != "none" else 1.0
        value, half, loss = top * share, top * 0.07, top * (share - 1)
        kept = tokens(spec, LAYERS.get(model, 4))
        found[name] = {
            "task": benchmark.testbed_task if study.tasks == "testbed" else benchmark.hub_task,
            "samples": 100,
            "units": {"mmb": 25, "mme": 50}.get(name, 100),
            "primary": benchmark.primary.name,
            "scores": {
                benchmark.primary.name: {
                    "value": round(value, 4),
                    "low": round(value - half, 4),
                    "high": round(value + half, 4),
                    "unit": benchmark.primary.unit,
                    "higher_is_better": True,
                }
            },
            "difference": None
            if spec["name"] == "none"
            else {
                benchmark.primary.name: {
                    "value": round(loss, 4),
                    "low": round(loss - half / 2, 4),
                    "high": round(loss + half / 2, 4),
                }
            },
            "visual_tokens": {"total": V, "prefill": kept, "decode": kept},
            "work": work(kept, name in CAPTIONS),
        }
    return {
        "schema": "dyrate.result",
        "version": 1,
        "study": study.name,
        "model": model,
        "method": spec,
        "label": label(spec),
        "origin": origin(job),
        "decoding": {"num_beams": 1, "do_sample": False, **job.decoding},
        "benchmarks": found,
        "shape": SHAPE,
        "meta": {
            "command": f"dyrate evaluate --model {job.model.path} --method '{json.dumps(spec)}'",
            "seed": 0,
            "device": "cpu",
            "dtype": "float32",
            "batch_size": 16,
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "lmms-eval": "0.7.3"},
        },
    }


def work(kept: list[float], caption: bool) -> dict[str, Any]:
    """What 100 samples with 20 tokens of text did, each with the mean's visual tokens."""
    one = schedule([20 + round(count) for count in kept], 30 if caption else 1, patches=int(V)).to_json()

    def times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: times(entry) for key, entry in value.items()}
        return [times(entry) for entry in value] if isinstance(value, list) else 100 * value

    found: dict[str, Any] = times(one)
    return found


def run(seconds: float = 41.5, date: str = "2026-01-15T10:00:00+00:00") -> dict[str, Any]:
    return {
        "schema": "dyrate.run",
        "version": 1,
        "date": date,
        "wall_seconds": seconds,
        "generate_seconds": seconds * 0.7,
        "samples": 1100,
        "samples_per_second": 37.0,
        "reused_samples": 0,
        "seconds": {},
        "stages": {},
        "host": {},
    }


QUESTIONS = {
    "gqa": ("What colour is the thing left of the star?", "teal"),
    "pope": ("Is there a triangle in the image?", "yes"),
    "nocaps": (
        "Provide a one-sentence caption for the provided image.",
        "a snowy field with two large striped squares, a small navy circle and a sign that reads HARBOUR",
    ),
}


def answers(job: StudyJob, study: Study) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for name in job.method.benchmarks:
        question, reference = QUESTIONS.get(name, ("How many stars are there?", "3"))
        kind = BENCHMARKS[name].kind
        for doc in range(DOCS):
            right = random.Random(f"{job.stem} {name} {doc}").random() < LEVEL.get(job.method.name, 0.3)
            sample = Sample(
                doc_id=doc,
                unit=str(doc // {"circular": 4, "pairs": 2}.get(kind, 1)),
                stratum={"pairs": "color", "strata": ("geometry", "localization")[doc % 2]}.get(kind, ""),
                prompt=f"{question}\nAnswer the question using a single word or phrase.",
                answer=reference if right else " ".join(reversed(reference.split())) + " maroon",
                references=[reference],
                scores=sample_scores(kind, right, BENCHMARKS[name].primary.name),
                category={
                    "yes_no": ("adversarial", "popular")[doc % 2],
                    "circular": f"ability {doc // 4}",
                }.get(kind, ""),
            )
            found.setdefault(name, []).append(sample)
    return found


def sample_scores(kind: str, right: bool, primary: str = "exact_match") -> dict[str, float]:
    """What the scoring of that kind of benchmark keeps of a sample."""
    one = float(right)
    return {
        "match": {primary: one},
        "strata": {"accuracy": one},
        "exam": {"accuracy": one},
        "yes_no": {"accuracy": one, "yes": one, "hit": one, "miss": 1 - one},
        "circular": {"accuracy": one},
        "pairs": {"correct": one},
        "caption": {"CIDEr": 1.2 if right else 0.3, "ROUGE_L": 0.5},
    }[kind]


def write_job(job: StudyJob, study: Study, root: Path, **changes: Any) -> ResultFiles:
    files = ResultFiles.beside(root / job.result)
    write(files.result, {**result(job, study), **changes})
    write_json(files.run, run())
    write_answers(files.answers, answers(job, study))
    return files


def write_study(study: Study, root: Path, images: bool = True, asked: bool = False) -> None:
    """Write all files; results were `asked` for as the study asks where somebody compares that."""
    for job in study.jobs:
        meta = result(job, study)["meta"]
        own = {"meta": {**meta, "command": settled(study.evaluation(job)).command()}} if asked else {}
        write_job(job, study, root, **own)
    for predictor in study.trainings:
        write_predictor(predictor, root)
    for name, timed in jobs.timed(study).items():
        path = root / jobs.document(study, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [speed.row(job.spec) for job in timed]
        path.write_text(json.dumps(speed.bench(rows, model=timed[0].model.path, weights="checkpoint")))
    for path in study.data_files if images else ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"image": {"bytes": scene(f"{path}{i}"), "path": None}} for i in range(DOCS)]
        pq.write_table(pa.Table.from_pylist(rows), root / path)


def write_predictor(predictor: StudyPredictor, root: Path) -> None:
    """What a training leaves behind, as far as a study reads it."""
    record, weights = (root / path for path in predictor.files)
    record.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "schema": predictor_config.SCHEMA,
        "version": predictor_config.VERSION,
        "config": {"layer": 2, "heads": 4},
        "recipe": {**predictor.recipe, "seed": 0},
        "model": {"weights": "made up"},
    }
    record.write_text(json.dumps(found))
    weights.write_bytes(b"weights")


def scene(seed: str) -> bytes:
    dice = random.Random(seed)
    image = Image.new("RGB", (168, 168), (225, 220, 205))
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        x, y, r = dice.randrange(20, 148), dice.randrange(20, 148), dice.randrange(8, 24)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(dice.randrange(256) for _ in range(3)))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
