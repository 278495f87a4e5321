"""What the benches have in common: which model on which machine, and the JSON document that says so."""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import files

if TYPE_CHECKING:
    import torch


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what is measured: a checkpoint, or a published shape with random weights."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or hub id")
    what.add_argument("--shape", metavar="NAME", help="llava-1.5-7b or llava-1.5-13b, with random weights")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add what it runs on, and where the document goes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON document here, too")


def publish(
    schema: str, version: int, arguments: argparse.Namespace, device: "torch.device", parts: dict[str, Any]
) -> None:
    """Print the document as one line, and write it to `--output`: where it comes from, and `parts`."""
    import platform

    import torch

    from dyrate.evaluation import provenance

    document = {
        "schema": schema,
        "version": version,
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["dyrate", *sys.argv[1:]]),
        "model": arguments.model or arguments.shape,
        "weights": "checkpoint" if arguments.model else "random",
        "dtype": arguments.dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        **parts,
    }
    if arguments.output is not None:
        files.write_text(arguments.output, json.dumps(document, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(document, sort_keys=True) + "\n")
