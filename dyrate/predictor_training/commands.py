"""`dyrate train-predictor`: learn on a frozen model how many visual tokens each step needs."""

import argparse
from pathlib import Path

_Subparsers = argparse._SubParsersAction  # the type has no public name


def register(subparsers: "_Subparsers[argparse.ArgumentParser]") -> None:
    """Add `dyrate train-predictor`; imports nothing heavy."""
    parser = subparsers.add_parser(
        "train-predictor",
        help="train DyRate's predictor on a frozen model",
        description="Learn which rate each step of an answer can do with. The model is frozen; a\n"
        "predictor reads the attention that a step's query pays to the four token classes and chooses one\n"
        "of K_r rates; it learns by Gumbel-Softmax from the answers' loss plus budget_weight times the\n"
        "share of visual tokens kept: a larger budget_weight keeps fewer. A learned ranking of the tokens\n"
        "(ranking: linear or mlp) is trained first, on what the unpruned model looks at.\n\n"
        "DIR then holds predictor.safetensors, predictor.json (recipe, curve, validation, schedule) and\n"
        "predictor.run.json (time, hardware); the method `dyrate` runs it. A killed run continues from its\n"
        "last checkpoint when the same command is given again, and ends with the same bytes.",
        epilog="examples:\n"
        "  dyrate train-predictor --model models/testbed-s --output predictors/default\n"
        "  dyrate train-predictor --model models/testbed-s --output predictors/frugal \\\n"
        '    --recipe \'{"budget_weight": 2, "kind": "gru", "mode": "evict"}\'\n'
        "  dyrate train-predictor --model llava-hf/llava-1.5-7b-hf --data answers.jsonl --dtype bfloat16 \\\n"
        "    --recipe '{\"batch_size\": 8}' --output predictors/llava-7b",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help="checkpoint folder or hub id")
    parser.add_argument(
        "--recipe",
        default="{}",
        metavar="JSON",
        help="the recipe's keys that differ from the default, as JSON text or the path of a JSON file; an "
        "unknown key lists the known ones (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the predictor and its checkpoint"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help=".jsonl or .parquet with `image`, `question`, `answer` (default: the testbed's training split)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N entries of --data only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),  # in float16 a closed gate has no gradient
        help="of the frozen model (default: float32)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from dyrate.predictor_training.recipe import Recipe
    from dyrate.predictor_training.train import TrainingJob, train_predictor

    job = TrainingJob(
        model=arguments.model,
        recipe=Recipe.read(arguments.recipe),
        output=arguments.output,
        data=arguments.data,
        limit=arguments.limit,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=arguments.threads,
    )
    record = train_predictor(job)
    assert record is not None
    validation = record["validation"]
    print(f"{job.output}: validated on {validation['examples']} examples")
    for name in ("unpruned", "pruned"):
        score = validation[name]
        print(
            f"  {name:9} loss {score['loss']:.4f}  tokens right {score['tokens']:.1%}  "
            f"answers right {score['answers']:.1%}"
        )
    shares = [("prefill", validation["retained_prefill"]), ("decode", validation["retained_decode"])]
    kept = ", ".join(f"{name} {share:.1%}" for name, share in shares if share is not None)
    print(f"  visual tokens kept from layer {job.recipe.layer} on: {kept}")
    return 0
