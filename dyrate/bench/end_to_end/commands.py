"""`dyrate bench-harness`: how many captions per second the whole evaluation makes."""

import argparse

from dyrate.bench.document import publish
from dyrate.bench.end_to_end.job import HarnessBench
from dyrate.jobs import Subparsers, asked
from dyrate.speed.documents import HarnessDocument


def register(subparsers: Subparsers) -> None:
    """Add `dyrate bench-harness`; imports nothing heavy."""
    parser = HarnessBench.add_parser(
        subparsers,
        "measure captions per second, images in, answers out, beside lmms-eval's llava_hf",
        "Answer the testbed's captioning questions through the whole harness: images are\n"
        "decoded, resized and encoded, answers come back as text. lmms-eval's own adapter llava_hf, which\n"
        "takes one sample at a time, answers the first of them in the same run, in alternating rounds after\n"
        "a warm-up. The last line is one JSON document.",
        "examples:\n"
        "  dyrate bench-harness --model models/testbed-s --samples 32 --batch-size 16\n"
        "  dyrate bench-harness --shape llava-1.5-7b --dtype bfloat16 --output results/h200/harness.json",
    )
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    from dyrate.bench.end_to_end.throughput import throughput
    from dyrate.evaluation.checkpoint import choose_device
    from dyrate.evaluation.commands import quiet_libraries
    from dyrate.evaluation.placement import settled

    [job] = map(settled, asked(HarnessBench, arguments))
    quiet_libraries()
    device = choose_device(job.device)
    rows = throughput(job, device)
    for row in rows:
        print(f"{row.name}: {row.captions_per_second:.2f} captions/s, {row.speedup:.1f} times llava_hf")
    parts = {"batch_size": job.batch_size, "new_tokens": job.new_tokens, "rows": rows}
    publish(HarnessDocument, job, device, parts)
    return 0
