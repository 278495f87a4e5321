"""`dyrate testbed`: build the local benchmarks, train the stand-in models, write their cards, accept them."""

import argparse
from collections.abc import Callable
from pathlib import Path

from dyrate.jobs import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `dyrate testbed` with its sub-commands; imports nothing heavy."""
    testbed = subparsers.add_parser(
        "testbed",
        help="the synthetic world: benchmarks, models, acceptance",
        description="The embedded study's world: local benchmarks in the schema of the real ones, and small\n"
        "models of two families trained on it. Stand-ins for testing methods, no substitutes for real\n"
        "models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = testbed.add_subparsers(dest="step", metavar="STEP", required=True)

    build = _step(
        steps,
        _build,
        "write the local benchmarks as parquet files",
        "Write benchmarks of the synthetic world, each in the schema of its real counterpart.\n"
        "The same seed gives the same bytes.",
        "dyrate testbed build --benchmarks gqa pope --samples 100 --output data/testbed",
    )
    build.add_argument("--benchmarks", nargs="+", metavar="NAME", help="which ones (default: all)")
    build.add_argument(
        "--samples", type=int, default=500, metavar="N", help="rows per benchmark (default: 500)"
    )
    build.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    build.add_argument(
        "--sides",
        nargs="+",
        type=int,
        default=(),
        metavar="PIXELS",
        help="resize each image to a square of one of these sides (default: all have 168)",
    )
    build.add_argument(
        "--output", type=Path, default=Path("data/testbed"), metavar="DIR", help="default: %(default)s"
    )

    train = _step(
        steps,
        _train,
        "train a testbed model from nothing",
        "Train a small LLaVA, or Qwen2.5-VL, on the synthetic world and save it in Hugging Face format, in\n"
        "half precision.\n"
        "A killed run continues from its last checkpoint when the same command is given again.\n"
        "With --minutes, the learning rate decays over the last 30% of the time; the steps that this\n"
        "gave are recorded in training.json, and --steps with --decay-steps repeats them without a clock.",
        "dyrate testbed train --model testbed-s --output models/testbed-s --minutes 8.5 --device cuda",
    )
    train.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="testbed-s or testbed-m, LLaVAs; testbed-q, a Qwen2.5-VL; or testbed-tiny and testbed-q-tiny, "
        "of each (smoke)",
    )
    train.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="directory of the finished model"
    )
    train.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: checkpoints/NAME")
    train.add_argument("--seed", type=int, help="of the weights and the data (default: the recipe's, 0)")
    train.add_argument("--steps", type=int, metavar="N", help="length of the run (default: the recipe's)")
    train.add_argument("--decay-steps", type=int, metavar="N", help="last steps, in which the rate decays")
    train.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: the recipe's)")
    train.add_argument(
        "--contrast-weight", type=float, metavar="W", help="of CLIP's loss beside the answers' (default: 0.1)"
    )
    train.add_argument(
        "--contrast-steps", type=int, metavar="N", help="first steps, of CLIP's loss alone (default: 0)"
    )
    train.add_argument(
        "--tower-rate", type=float, metavar="X", help="the towers' learning rate after those (default: 1)"
    )
    train.add_argument(
        "--least-spacing",
        type=float,
        metavar="X",
        help="positions between visual tokens, at least, in half of the examples (default: 0.1; 1: always 1)",
    )
    train.add_argument(
        "--minutes", type=float, metavar="M", help="end after so long, even before the last step"
    )
    train.add_argument("--stop-after", type=int, metavar="N", help="leave after N steps, to be continued")
    train.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: %(default)s)")
    train.add_argument(
        "--workers", type=int, default=15, metavar="N", help="processes making data (default: 15)"
    )
    train.add_argument(
        "--no-compile", action="store_true", help="do not compile the layers (never done on a CPU)"
    )

    connectors = _step(
        steps,
        _connectors,
        "train the published connectors on a testbed model",
        "Train visual-token compressors between a testbed model's vision tower and its language model, with\n"
        "a LoRA adapter each, on the same batches: what TokenPacker, Q-Former and others make of an image\n"
        "under one budget. Each gets a folder with connector.json and connector.safetensors, which a model\n"
        "entry of a study names as its `connector`. A run that was stopped goes on when the same command is\n"
        "given again.",
        "dyrate testbed connectors --model models/testbed-s --output connectors/testbed-s --device cuda",
    )
    connectors.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="testbed model to train on"
    )
    connectors.add_argument("--names", nargs="+", metavar="NAME", help="which ones (default: all)")
    connectors.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of their folders"
    )
    connectors.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: checkpoints/connectors")
    connectors.add_argument(
        "--steps", type=int, metavar="N", help="length of the run (default: the recipe's)"
    )
    connectors.add_argument(
        "--alone", type=int, metavar="N", help="first steps, of the connector without its adapter"
    )
    connectors.add_argument(
        "--batch-size", type=int, metavar="N", help="images per step (default: the recipe's)"
    )
    connectors.add_argument("--seed", type=int, help="of the weights and the data (default: the recipe's, 0)")
    connectors.add_argument(
        "--held-out", type=int, default=512, metavar="N", help="images of the final score (default: 512)"
    )
    connectors.add_argument(
        "--stop-after", type=int, metavar="N", help="leave after N steps, to be continued"
    )
    connectors.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: %(default)s)")
    connectors.add_argument(
        "--workers", type=int, default=15, metavar="N", help="processes making data (default: 15)"
    )

    card = _step(
        steps,
        _card,
        "write a model's card",
        "Write README.md beside a trained testbed model: what it is and is not, recipe, curve, accuracy.",
        "dyrate testbed card --model models/testbed-s --acceptance results/acceptance/acceptance.json",
    )
    card.add_argument("--model", type=Path, required=True, metavar="DIR", help="directory with training.json")
    card.add_argument(
        "--acceptance", type=Path, metavar="FILE", help="JSON written by `dyrate testbed accept`"
    )

    accept = _step(
        steps,
        _accept,
        "check that the models make the benchmarks informative",
        "Evaluate models with and without visual tokens, and print how their scores stand between\n"
        "chance and the attainable: each benchmark must leave room in both directions.",
        "dyrate testbed accept --models models/testbed-s models/testbed-m --samples 500",
    )
    accept.add_argument("--models", type=Path, nargs="+", required=True, metavar="DIR", help="testbed models")
    accept.add_argument("--samples", type=int, default=500, metavar="N", help="per benchmark (default: 500)")
    accept.add_argument(
        "--data", type=Path, default=Path("data/testbed"), metavar="DIR", help="default: %(default)s"
    )
    accept.add_argument(
        "--output", type=Path, default=Path("results/acceptance"), metavar="DIR", help="default: %(default)s"
    )


def _step(
    steps: Subparsers, run: Callable[[argparse.Namespace], int], text: str, description: str, example: str
) -> argparse.ArgumentParser:
    """Add the sub-command that the function is named after."""
    parser = steps.add_parser(
        run.__name__.removeprefix("_"),
        help=text,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _build(arguments: argparse.Namespace) -> int:
    from dyrate.testbed.benchmarks.build import build
    from dyrate.testbed.benchmarks.specs import BENCHMARKS

    chosen = arguments.benchmarks or BENCHMARKS
    build(chosen, arguments.samples, arguments.seed, arguments.output, arguments.sides)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from dyrate.testbed.models.architecture import size_of
    from dyrate.testbed.models.recipe import DECAY_SHARE, RECIPES, Machine
    from dyrate.testbed.models.training import train

    size_of(arguments.model)
    schedule = ("seed", "steps", "decay_steps", "batch_size")
    options = (*schedule, "contrast_weight", "contrast_steps", "tower_rate", "least_spacing")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    if "steps" in given:
        given.setdefault("decay_steps", round(DECAY_SHARE * given["steps"]))
    recipe = replace(RECIPES[arguments.model], **given)
    machine = Machine(
        device=arguments.device,
        workers=arguments.workers,
        compile=arguments.device.startswith("cuda") and not arguments.no_compile,
        minutes=arguments.minutes,
    )
    checkpoint = arguments.checkpoint or Path("checkpoints") / arguments.model
    record = train(recipe, machine, checkpoint, arguments.output, stop_after=arguments.stop_after)
    if record is None:
        print(f"to be continued from {checkpoint}")
    else:
        held_out = record["held_out"]
        print(f"{arguments.output}: {held_out['questions']:.1%} of the held-out questions right")
        for kind, (right, asked) in held_out["exact"].items():
            print(f"  {kind:24} {right / asked:6.1%} of {asked}")
    return 0


def _connectors(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from dyrate.testbed.connectors.card import write_card
    from dyrate.testbed.connectors.recipe import recipes_named
    from dyrate.testbed.connectors.train import train

    options = ("steps", "alone", "batch_size", "seed")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    recipes = {name: replace(recipe, **given) for name, recipe in recipes_named(arguments.names).items()}
    checkpoints = arguments.checkpoint or Path("checkpoints/connectors")
    found = train(
        arguments.model,
        recipes,
        arguments.output,
        checkpoints,
        device=arguments.device,
        workers=arguments.workers,
        held_out_examples=arguments.held_out,
        stop_after=arguments.stop_after,
    )
    if found is None:
        print(f"to be continued from {checkpoints}")
        return 0
    for name, training in found.items():
        shares = ", ".join(
            f"{score['questions']:.1%} with {scale} tokens" for scale, score in training["held_out"].items()
        )
        print(f"{arguments.output / name}: of the held-out questions right: {shares}")
    print(write_card(arguments.output))
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from dyrate.testbed.models.card import write_card

    print(write_card(arguments.model, arguments.acceptance))
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    from dyrate.evaluation import acceptance

    status: int = acceptance.run(arguments)
    return status
