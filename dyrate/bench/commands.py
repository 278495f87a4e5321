"""`dyrate bench`: time to the first token, time per token, memory; methods beside transformers itself."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate.bench.document import publish
from dyrate.bench.job import WORDS, Bench
from dyrate.errors import DyrateError
from dyrate.jobs import Subparsers, asked
from dyrate.speed.documents import BenchDocument, Load, Timing

if TYPE_CHECKING:
    import torch

    from dyrate.bench.contenders import Contender


def register(subparsers: Subparsers) -> None:
    """Add `dyrate bench`; imports nothing heavy."""
    parser = Bench.add_parser(
        subparsers,
        "measure time and memory of methods, beside transformers itself",
        "Generate with every contender in alternating order, after warm-ups, and print medians:\n"
        "time to the first token (TTFT), time per further token (synchronised steps), end to end, memory,\n"
        "and what share of the device's own bandwidth (decode) and matrix peak (prefill), measured in\n"
        "the same run, that is. Every row makes as many tokens. The last line is one JSON document.\n\n"
        "Methods whose rates depend on the input mean nothing on random weights: --replay gives the mean\n"
        "rates that a predictor of a study chose, step by step.",
        "examples:\n"
        '  dyrate bench --model models/testbed-s --methods none \'{"name": "fastv", "rate": 0.5}\'\n'
        "  dyrate bench --shape llava-1.5-7b --dtype bfloat16 --batch 1 8 32 --new-tokens 64 \\\n"
        "    --methods none fastv --engine transformers graph --peers generate static \\\n"
        "    --output results/h200/decode.json\n"
        "  dyrate bench --shape qwen3-vl-8b --visual 8192 --dtype bfloat16 --batch 8 --peers\n"
        "  dyrate bench --shape llava-1.5-7b --dtype bfloat16 \\\n"
        "    --replay predictors/testbed/testbed-s/plus-1.5",
    )
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from dyrate.bench import models
    from dyrate.bench.contenders import keeping_all
    from dyrate.bench.given import given
    from dyrate.bench.limits import measure_limits
    from dyrate.bench.measure import measure
    from dyrate.bench.profile import listing
    from dyrate.bench.rows import rows, table
    from dyrate.cost.shapes import ModelShape
    from dyrate.evaluation.checkpoint import choose_device, content_hash, locate
    from dyrate.evaluation.placement import settled

    [job] = map(settled, asked(Bench, arguments))
    contenders = _contenders(job)
    methods = [one.method for one in contenders if one.method is not None]
    if job.model and any(method.content_hash for method in methods):  # hashing takes its time
        weights = content_hash(locate(job.model, job.revision))
        for method in methods:
            method.check_checkpoint(weights)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device, dtype = choose_device(job.device), getattr(torch, job.dtype)
    torch.manual_seed(job.seed)
    model, loads = _loads(job, device)
    shape = ModelShape.of(model.config)
    if job.overhead:
        contenders += keeping_all(shape.text.heads, job.engine)
    if job.choosing:
        load, prompts = loads[0]
        asked_of = prompts[0] if prompts else models.inputs(model, load.batch, load.prompt, job.seed)
        contenders += given(contenders, model, asked_of)
    limits = measure_limits(device, dtype)
    found: list[Timing] = []
    total = len(loads) * len(contenders) * (job.rounds + job.warmups)
    with tqdm(total=total, unit="round", mininterval=0.5 if sys.stderr.isatty() else 20) as bar:
        for load, prompts in loads:
            timings = measure(
                model,
                contenders,
                load,
                rounds=job.rounds,
                warmups=job.warmups,
                seed=job.seed,
                done=bar.update,
                prompts=prompts,
                profiled=job.profile,
            )
            found += rows(contenders, timings, load, shape, limits, dtype.itemsize)
    print(table(found))
    for row in found:
        for what, profile in (("the prompt", row.prompt_pass), ("one decode step", row.decode_step)):
            if profile:
                print(listing(what, row, profile))
    publish(
        BenchDocument,
        job,
        device,
        {
            "benchmark": job.benchmark,
            "replayed": str(job.replay) if job.replay else None,
            "threads": torch.get_num_threads(),
            "seed": job.seed,
            "shape": asdict(shape),
            "limits": limits,
            "rows": found,
        },
    )
    return 0


def _loads(
    job: Bench, device: "torch.device"
) -> "tuple[Any, list[tuple[Load, list[dict[str, torch.Tensor]] | None]]]":
    """The model, and what it has to do; with the prompts of a benchmark, where one is named."""
    import torch

    from dyrate.bench import models

    loads = [(batch, new) for new in job.new_tokens for batch in job.batch]
    if job.benchmark is None:
        model = (
            models.loaded_model(job.model, device, job.dtype, job.revision)
            if job.model
            else models.random_model(models.named_shape(job.shape or ""), device, getattr(torch, job.dtype))
        )
        lengths = job.prompt or (models.visual_tokens(model, job.visual) + WORDS,)
        return model, [
            (Load(batch, prompt, new), [models.inputs(model, batch, prompt, job.seed, job.visual)])
            for prompt in lengths
            for batch, new in loads
        ]
    assert job.model is not None
    from dyrate.bench.prompts import Reader
    from dyrate.evaluation.commands import quiet_libraries

    quiet_libraries()
    reader = Reader(job.model, device, job.dtype, job.revision, job.chat_template, job.pixels)
    asked: list[tuple[Load, list[dict[str, torch.Tensor]] | None]] = []
    for batch, new in loads:
        prompts = reader.prompts(job.benchmark, job.tasks, job.data, batch=batch, count=job.rounds)
        asked.append((Load(batch, prompts[0]["input_ids"].shape[1], new), prompts))
    return reader.model, asked


def _contenders(job: Bench) -> "list[Contender]":
    """The peers, then the methods, then what is replayed; each once."""
    from dyrate.bench.contenders import Contender
    from dyrate.registry import load_method

    specs = [*job.methods]
    if job.replay is not None:
        rates = _replayed(job.replay)
        specs += [
            {"name": "replay", "rates": rates, "mode": mode, "prune_prefill": prune}
            for mode, prune in (("select", True), ("evict", True), ("evict", False))
        ]
    found = [Contender(peer) for peer in job.peers]
    found += [
        Contender(spec["name"], load_method(spec), fast=engine == "graph")
        for spec in specs
        for engine in dict.fromkeys(job.engine)
    ]
    return found


def _replayed(folder: Path) -> list[float]:
    from dyrate.predictor_config import read_record

    schedule = read_record(folder).get("schedule")
    if not isinstance(schedule, list) or not schedule:
        raise DyrateError(f"--replay {folder}: its record has no schedule; train it with this version")
    return schedule
