"""`dyrate training-questions`: what DyRate's predictor is trained on in the paper's study."""

import argparse

from dyrate.jobs import Subparsers, asked
from dyrate.training_questions.job import TrainingQuestions


def register(subparsers: Subparsers) -> None:
    """Add `dyrate training-questions`; imports nothing heavy."""
    parser = TrainingQuestions.add_parser(
        subparsers,
        "make training questions for DyRate's predictor of an open data set",
        "Take questions of VQAv2's training split and captions of TextCaps', in turn, as The Cauldron has\n"
        "them in its parquet files, which are streamed: about a gigabyte. No picture of a benchmark comes\n"
        "in, neither its bytes nor the same picture at another size or compression: all benchmarks are read\n"
        "first, and one that cannot be read ends the command.\n\n"
        "FILE is what `dyrate train-predictor --data` takes. The record beside it says what was checked,\n"
        "dropped, and how near the nearest of the others comes.",
        "examples:\n"
        "  dyrate training-questions --output data/paper/train.jsonl\n"
        "  dyrate training-questions --rows 200 --benchmarks gqa pope --output data/try.jsonl",
    )
    parser.set_defaults(run=_make)


def _make(arguments: argparse.Namespace) -> int:
    [job] = asked(TrainingQuestions, arguments)
    from dyrate.evaluation.commands import quiet_libraries
    from dyrate.training_questions.make import make

    quiet_libraries()
    record = make(job)
    checked = record["checked"]
    pictures = sum(one["images"] for one in checked.values())
    print(f"{job.output}: {record['rows']} rows, without the {pictures} images of {len(checked)} benchmarks")
    for name, counts in record["subsets"].items():
        dropped = ", ".join(f"{count} {what}" for what, count in counts["dropped"].items())
        print(f"  {name}: {counts['taken']} of {counts['read']} rows read; in a benchmark: {dropped}")
    nearest = record["nearest_kept"]
    print(
        f"  the nearest that stayed: {nearest['likeness']} to one of {nearest['benchmark']}; from "
        f"{record['alike_from']} on they go"
    )
    return 0
