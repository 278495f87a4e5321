"""`dyrate bench-harness`: how many captions per second the whole evaluation makes."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

from dyrate.bench.document import add_machine, add_model, publish
from dyrate.errors import DyrateError
from dyrate.registry import as_spec

SCHEMA, VERSION = "dyrate.bench_harness", 1
_Subparsers = argparse._SubParsersAction  # the type has no public name


def register(subparsers: "_Subparsers[argparse.ArgumentParser]") -> None:
    """Add `dyrate bench-harness`; imports nothing heavy."""
    parser = subparsers.add_parser(
        "bench-harness",
        help="measure captions per second, images in, answers out, beside lmms-eval's llava_hf",
        description="Answer the testbed's captioning questions through the whole harness: images are\n"
        "decoded, resized and encoded, answers come back as text. lmms-eval's own adapter llava_hf, which\n"
        "takes one sample at a time, answers the first of them in the same run, in alternating rounds after\n"
        "a warm-up. The last line is one JSON document.",
        epilog="examples:\n"
        "  dyrate bench-harness --model models/testbed-s --samples 32 --batch-size 16\n"
        "  dyrate bench-harness --shape llava-1.5-7b --dtype bfloat16 --output results/h200/harness.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument(
        "--processor",
        type=Path,
        default=Path("models/testbed-s"),
        metavar="DIR",
        help="whose tokenizer and image processor to use, at the model's image size (default: %(default)s)",
    )
    parser.add_argument(
        "--methods", nargs="+", default=["none"], metavar="METHOD", help="names or JSON objects"
    )
    for name, default, text in (
        ("samples", 256, "captions to make"),
        ("peer-samples", 16, "captions that llava_hf makes"),
        ("batch-size", 128, "of this package"),
        ("new-tokens", 64, "at most, per caption"),
        ("rounds", 2, "after the warm-up"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    add_machine(parser)
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    from dyrate.bench.end_to_end.throughput import throughput
    from dyrate.bench.models import named_shape
    from dyrate.evaluation.checkpoint import choose_device
    from dyrate.evaluation.commands import quiet_libraries

    for name in ("samples", "peer_samples", "batch_size", "new_tokens", "rounds"):
        if (value := getattr(arguments, name)) < 1:
            raise DyrateError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if arguments.peer_samples > arguments.samples:
        raise DyrateError(
            f"--peer-samples {arguments.peer_samples}: expected at most --samples, {arguments.samples}"
        )
    quiet_libraries()
    device = choose_device(arguments.device)
    methods = [as_spec(text, "--methods") for text in arguments.methods]
    found = throughput(
        arguments.model or named_shape(arguments.shape),
        arguments.processor,
        methods,
        samples=arguments.samples,
        peer_samples=arguments.peer_samples,
        batch_size=arguments.batch_size,
        new_tokens=arguments.new_tokens,
        rounds=arguments.rounds,
        device=device,
        dtype=arguments.dtype,
        say=lambda line: print(line, file=sys.stderr),
    )
    rates = [entry.samples / median(entry.seconds) for entry in found]
    for entry, rate in zip(found, rates, strict=True):
        print(f"{entry.name}: {rate:.2f} captions/s, {rate / rates[0]:.1f} times llava_hf")
    publish(
        SCHEMA,
        VERSION,
        arguments,
        device,
        {
            "batch_size": arguments.batch_size,
            "new_tokens": arguments.new_tokens,
            "rows": [
                {**asdict(entry), "captions_per_second": rate, "speedup": rate / rates[0]}
                for entry, rate in zip(found, rates, strict=True)
            ],
        },
    )
    return 0
