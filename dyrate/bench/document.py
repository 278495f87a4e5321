"""What the benches have in common: which model on which machine, and the JSON document that says so."""

import shlex
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dyrate import files
from dyrate.speed.documents import Document

if TYPE_CHECKING:
    import torch

    from dyrate.bench.end_to_end.job import HarnessBench
    from dyrate.bench.job import Bench
    from dyrate.bench.training.job import TrainingBench


def publish(
    kind: type[Document],
    job: "Bench | HarnessBench | TrainingBench",
    device: "torch.device",
    parts: dict[str, Any],
) -> None:
    """Print the document as one line, and write it to `--output`: where it comes from, and `parts`."""
    import platform

    import torch

    from dyrate.evaluation import provenance

    document = kind.of(
        {
            "date": datetime.now(UTC).date().isoformat(),
            "command": shlex.join(["dyrate", *sys.argv[1:]]),
            "model": job.model or job.shape,
            "weights": "checkpoint" if job.model else "random",
            "dtype": job.dtype,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            **parts,
        }
    )
    if job.output is not None:
        files.write_text(job.output, document.to_json(indent=1) + "\n")
    sys.stdout.write(document.to_json() + "\n")
