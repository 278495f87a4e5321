"""`dyrate convert`: checkpoints in other layouts than transformers'. Imports nothing slow until it runs."""

import argparse
from pathlib import Path

from dyrate.jobs import Subparsers

_CONVERT = """\
Make of a checkpoint in the original LLaVA layout (`LlavaLlamaForCausalLM`, `model.mm_projector.0.weight`)
a folder that transformers and this package load: LlavaForConditionalGeneration, safetensors in shards,
processor, prompt.

  llava         LLaVA-1.5; complete
  m3            Matryoshka Multimodal Models: a LLaVA with its fine-tuned tower, in OUTPUT/base, and how it is
                pooled: OUTPUT at its finest scale, a folder in it for each other one, named after its tokens
  tokenpacker   TokenPacker, and the LLaVA around it in OUTPUT/base
  llama-vid     LLaMA-VID for images: its context token, and the LLaVA around it, with its EVA tower, in
                OUTPUT/base; it reads questions by BERT's tokenizer, which it does not hold itself
                (--question-tokenizer)

Of the last three OUTPUT is a connector's folder, which `--model`, and `connector:` in a study, take like a
trained one's. Only M3's base is a whole LLaVA by itself; the others have no projector.

Every tensor finds its place or has a reason to be left aside; the command says what is absent, left over, of
another shape, or NaN, and then writes nothing. conversion.json says where the folder came from.

The new tokens <image> and <pad>, and rows up to a multiple of 64, are drawn as transformers' own conversion
draws them, from a fixed seed. Images are padded to a square where config.json says `"image_aspect_ratio":
"pad"`, as LLaVA-1.5 was trained and is evaluated; the hub's llava-hf/llava-1.5 checkpoints crop them instead
("do_pad" in processor_config.json). The prompt is the original `vicuna_v1`.
"""

_EXAMPLES = """\
examples:
  hf download mucai/llava-v1.5-7b-m3
  dyrate convert --from llava-original mucai/llava-v1.5-7b-m3 checkpoints/m3
  dyrate evaluate --model checkpoints/m3/36 --tasks hub --benchmarks gqa --output results/m3-36
  dyrate convert --from llava-original downloads/llava-v1.5-7b checkpoints/llava-1.5-7b \\
      --vision-tower downloads/clip-vit-large-patch14-336

Nothing is downloaded. Pickled weights (pytorch_model*.bin, as several official checkpoints have them) are not
opened: the command says how to make safetensors of them.
"""


def register(subparsers: Subparsers) -> None:
    """Add `dyrate convert`."""
    parser = subparsers.add_parser(
        "convert",
        help="make a checkpoint in the original LLaVA layout one that transformers loads",
        description=_CONVERT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="the checkpoint's folder, or its hub id if it is in the cache"
    )
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="folder to make; must not hold anything yet"
    )
    parser.add_argument(
        "--from",
        dest="layout",
        metavar="{llava-original}",
        choices=["llava-original"],
        required=True,
        help="the layout",
    )
    parser.add_argument(
        "--vision-tower",
        metavar="DIR_OR_ID",
        help="the CLIP vision tower, for a checkpoint that does not hold it: a folder with safetensors, or a "
        "hub id in the cache (default: mm_vision_tower of config.json, in the cache)",
    )
    parser.add_argument(
        "--question-tokenizer",
        metavar="DIR_OR_ID",
        help="for LLaMA-VID: a folder with BERT's tokenizer.json, or a hub id in the cache (default: "
        "google-bert/bert-base-uncased, in the cache)",
    )
    parser.add_argument(
        "--system",
        choices=("llava", "m3", "tokenpacker", "llama-vid"),
        help="what the checkpoint is (default: what config.json says)",
    )
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    from dyrate.convert.convert import convert

    done = convert(
        arguments.source,
        arguments.output,
        arguments.vision_tower,
        arguments.system,
        arguments.question_tokenizer,
    )
    for reason, names in done["ignored"].items():
        print(f"left aside: {len(names)} tensors, {names[0]} among them: {reason}")
    tower, images = done["vision_tower"], done["images"]
    print(f"{done['system']}, {done['dtype']}, vision tower from {tower}, images {images}")
    print(arguments.output)
    return 0
