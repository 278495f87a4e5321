"""`dyrate bench`: time to the first token, time per token, memory; methods beside transformers itself."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate.bench.document import add_machine, add_model, publish
from dyrate.errors import DyrateError
from dyrate.evaluation.commands import add_data

if TYPE_CHECKING:
    import torch

    from dyrate.bench.contenders import Contender
    from dyrate.bench.measure import Load

SCHEMA, VERSION = "dyrate.bench", 1
_PROMPT = 640
"""LLaVA-1.5's 576 visual tokens and 64 others."""
_Subparsers = argparse._SubParsersAction  # the type has no public name


def register(subparsers: "_Subparsers[argparse.ArgumentParser]") -> None:
    """Add `dyrate bench`; imports nothing heavy."""
    parser = subparsers.add_parser(
        "bench",
        help="measure time and memory of methods, beside transformers itself",
        description="Generate with every contender in alternating order, after warm-ups, and print medians:\n"
        "time to the first token (TTFT), time per further token (synchronised steps), end to end, memory,\n"
        "and what share of the device's own bandwidth (decode) and matrix peak (prefill), measured in\n"
        "the same run, that is. Every row makes as many tokens. The last line is one JSON document.\n\n"
        "Methods whose rates depend on the input mean nothing on random weights: --replay gives the mean\n"
        "rates that a predictor of a study chose, step by step.",
        epilog="examples:\n"
        '  dyrate bench --model models/testbed-s --methods none \'{"name": "fastv", "rate": 0.5}\'\n'
        "  dyrate bench --shape llava-1.5-7b --dtype bfloat16 --batch 1 8 32 --new-tokens 64 \\\n"
        "    --methods none fastv --engine transformers graph --peers generate static \\\n"
        "    --output results/h200/decode.json\n"
        "  dyrate bench --shape llava-1.5-7b --dtype bfloat16 \\\n"
        "    --replay predictors/testbed/testbed-s/lambda-1.5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="prompts of this benchmark, another one in each round, instead of random words and images; the "
        "model must be a real one, and --prompt, their length, be left out",
    )
    add_data(parser)
    parser.add_argument(
        "--methods",
        nargs="*",
        default=["none"],
        metavar="METHOD",
        help="names, or JSON objects as in --method of `dyrate evaluate` (default: none, the unpruned model)",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        default=["generate"],
        metavar="PEER",
        help="generate: transformers with its dynamic cache; static: with its static cache, compiled on a "
        "GPU (default: generate)",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["transformers"],
        choices=("transformers", "graph"),
        help="what runs the methods: transformers under this package's hooks, this package's engine, or both "
        "(default: transformers)",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="DIR",
        help="a predictor's folder, whose mean rates are replayed in two more rows: select and evict",
    )
    parser.add_argument(
        "--overhead",
        action="store_true",
        help="more rows: DyRate with predictors that drop nothing; beside the unpruned model they show "
        "what statistics, prediction and ranking cost by themselves",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="after the measuring, what a decode step of each row consists of: kernels on a GPU, operations "
        "on a CPU, by torch's profiler",
    )
    for name, default, text in (
        ("batch", [1], "rows at once (default: 1)"),
        ("prompt", None, f"tokens of a prompt, the visual ones among them (default: {_PROMPT})"),
        ("new-tokens", [32], "tokens to make (default: 32)"),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=int,
            default=default,
            metavar="N",
            help=text,
        )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--warmups", type=int, default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, words and images (default: 0)")
    add_machine(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from dyrate.bench.contenders import keeping_all
    from dyrate.bench.limits import measure_limits
    from dyrate.bench.measure import measure
    from dyrate.bench.profile import listing
    from dyrate.bench.rows import rows, table
    from dyrate.cost.shapes import ModelShape
    from dyrate.evaluation.checkpoint import choose_device, content_hash, locate

    _check(arguments)
    contenders = _contenders(arguments)
    methods = [one.method for one in contenders if one.method is not None]
    if arguments.model and any(method.content_hash for method in methods):  # hashing takes its time
        weights = content_hash(locate(arguments.model))
        for method in methods:
            method.check_checkpoint(weights)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device, dtype = choose_device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(arguments.seed)
    model, loads = _loads(arguments, device)
    shape = ModelShape.of(model.config)
    if arguments.overhead:
        contenders += keeping_all(shape.text.heads, arguments.engine)
    limits = measure_limits(device, dtype)
    found: list[dict[str, Any]] = []
    total = len(loads) * len(contenders) * (arguments.rounds + arguments.warmups)
    with tqdm(total=total, unit="round", mininterval=0.5 if sys.stderr.isatty() else 20) as bar:
        for load, prompts in loads:
            timings = measure(
                model,
                contenders,
                load,
                rounds=arguments.rounds,
                warmups=arguments.warmups,
                seed=arguments.seed,
                done=bar.update,
                prompts=prompts,
                profiled=arguments.profile,
            )
            found += rows(contenders, timings, load, shape, limits, dtype.itemsize)
    print(table(found))
    for row in found:
        if row["decode_step"]:
            print(listing(row))
    publish(
        SCHEMA,
        VERSION,
        arguments,
        device,
        {
            "benchmark": arguments.benchmark,
            "replayed": str(arguments.replay) if arguments.replay else None,
            "threads": torch.get_num_threads(),
            "seed": arguments.seed,
            "shape": asdict(shape),
            "limits": asdict(limits),
            "rows": found,
        },
    )
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.benchmark is None and arguments.data is not None:
        raise DyrateError(
            f"--data {arguments.data}: says where the prompts of --benchmark are, which is missing"
        )
    if arguments.benchmark is not None and arguments.prompt is not None:
        raise DyrateError(
            f"--prompt {arguments.prompt[0]}: the prompts of --benchmark {arguments.benchmark} have lengths "
            "of their own; leave one of the two out"
        )
    for name in ("batch", "prompt", "new_tokens"):
        if wrong := [value for value in getattr(arguments, name) or () if value < 1]:
            raise DyrateError(f"--{name.replace('_', '-')} {wrong[0]}: expected at least 1")
    if arguments.rounds < 1 or arguments.warmups < 0:
        raise DyrateError(
            f"--rounds {arguments.rounds} --warmups {arguments.warmups}: expected 1 and 0 at least"
        )


def _loads(
    arguments: argparse.Namespace, device: "torch.device"
) -> "tuple[Any, list[tuple[Load, list[dict[str, torch.Tensor]] | None]]]":
    """The model, and what it has to do; with the prompts of a benchmark, where one is named."""
    import torch

    from dyrate.bench import models
    from dyrate.bench.measure import Load

    loads = [(batch, new) for new in arguments.new_tokens for batch in arguments.batch]
    if arguments.benchmark is None:
        model = (
            models.loaded_model(arguments.model, device, arguments.dtype)
            if arguments.model
            else models.random_model(
                models.named_shape(arguments.shape), device, getattr(torch, arguments.dtype)
            )
        )
        return model, [
            (Load(batch, prompt, new), None)
            for prompt in arguments.prompt or [_PROMPT]
            for batch, new in loads
        ]
    if arguments.model is None:
        raise DyrateError(
            f"--benchmark {arguments.benchmark}: a model of random weights reads no words; give --model"
        )
    from dyrate.bench.prompts import Reader
    from dyrate.evaluation.commands import quiet_libraries

    quiet_libraries()
    reader = Reader(arguments.model, device, arguments.dtype)
    asked: list[tuple[Load, list[dict[str, torch.Tensor]] | None]] = []
    for batch, new in loads:
        prompts = reader.prompts(
            arguments.benchmark, arguments.tasks, arguments.data, batch=batch, count=arguments.rounds
        )
        asked.append((Load(batch, prompts[0]["input_ids"].shape[1], new), prompts))
    return reader.model, asked


def _contenders(arguments: argparse.Namespace) -> "list[Contender]":
    """The peers, then the methods, then what is replayed; each once."""
    from dyrate.bench.contenders import PEERS, Contender
    from dyrate.registry import as_spec, load_method

    if unknown := [peer for peer in arguments.peers if peer not in PEERS]:
        raise DyrateError(f"--peers {unknown[0]}: unknown; known: {', '.join(PEERS)}")
    specs = [as_spec(text, "--methods") for text in arguments.methods]
    if arguments.replay is not None:
        rates = _replayed(arguments.replay)
        specs += [
            {"name": "replay", "rates": rates, "mode": mode, "prune_prefill": prune}
            for mode, prune in (("select", True), ("evict", True), ("evict", False))
        ]
    found = [Contender(peer) for peer in arguments.peers]
    found += [
        Contender(spec["name"], load_method(spec), fast=engine == "graph")
        for spec in specs
        for engine in dict.fromkeys(arguments.engine)
    ]
    if not found:
        raise DyrateError("--methods and --peers are both empty: nothing to measure")
    return found


def _replayed(folder: Path) -> list[float]:
    from dyrate.predictors import read_record

    schedule = read_record(folder).get("schedule")
    if not isinstance(schedule, list) or not schedule:
        raise DyrateError(f"--replay {folder}: its record has no schedule; train it with this version")
    return schedule
