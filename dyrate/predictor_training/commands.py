"""`dyrate train-predictor`: learn on a frozen model how many visual tokens each step needs."""

import argparse

from dyrate.jobs import Subparsers, asked
from dyrate.predictor_training.job import Training


def register(subparsers: Subparsers) -> None:
    """Add `dyrate train-predictor`; imports nothing heavy."""
    parser = Training.add_parser(
        subparsers,
        "train DyRate's predictor on a frozen model",
        "Learn which rate each step of an answer can do with. The model is frozen; a\n"
        "predictor reads the attention that a step's query pays to the four token classes and chooses one\n"
        "of K_r rates; it learns by Gumbel-Softmax from the answers' loss plus budget_weight times the\n"
        "share of visual tokens kept: a larger budget_weight keeps fewer. A learned ranking of the tokens\n"
        "(ranking: linear or mlp) is trained first, on what the unpruned model looks at.\n\n"
        "DIR then holds predictor.safetensors, predictor.json (recipe, curve, validation, schedule) and\n"
        "predictor.run.json (time, hardware); the method `dyrate` runs it. A killed run continues from its\n"
        "last checkpoint when the same command is given again, and ends with the same bytes.",
        "examples:\n"
        "  dyrate train-predictor --model models/testbed-s --output predictors/default\n"
        "  dyrate train-predictor --model models/testbed-s --output predictors/frugal \\\n"
        '    --recipe \'{"budget_weight": 2, "kind": "gru", "mode": "evict"}\'\n'
        "  dyrate train-predictor --model llava-hf/llava-1.5-7b-hf --data answers.jsonl --dtype bfloat16 \\\n"
        "    --recipe '{\"batch_size\": 8}' --output predictors/llava-7b",
    )
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    [job] = asked(Training, arguments)
    from dyrate.predictor_training.train import train_predictor

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
    print(f"  visual tokens kept from layer {record['recipe']['layer']} on: {kept}")
    return 0
