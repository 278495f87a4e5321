"""`dyrate look`, `dyrate survival` and `dyrate survival-page`. Imports nothing slow until a command runs."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dyrate.evaluation.placement import Fit, settled
from dyrate.jobs import Subparsers, asked
from dyrate.look.job import Look
from dyrate.look.survival_job import Survive

if TYPE_CHECKING:
    from dyrate.look.record import Answer

_LOOK = """\
Ask a model about one image, with and without visual-token reduction.

Words are printed as they come. Then a table: beside each word the share of the visual tokens that the last
layer did not attend to (rate), and where the attention went (mean over heads and layers); below them the
visual tokens kept, and the memory of the KV cache saved. --output writes a page on which a slider goes
through the words, and the image shows the tokens that live at each.

The default model, testbed-s, knows nothing but this project's synthetic scenes: --sample shows it one.
Photos need a real checkpoint, such as --model llava-hf/llava-1.5-7b-hf.
"""

_LOOK_EXAMPLES = """\
examples:
  dyrate look --sample
  dyrate look --sample gqa:3 --method dyrate fastv vtw --output look.html
  dyrate look photo.jpg --question "What is on the table?" --model llava-hf/llava-1.5-7b-hf \\
      --method '{"name": "fastv", "layer": 2, "rate": 0.5}' --output look.html
"""

_SURVIVAL = """\
Look again at some samples of a study, under the methods of some of its results: which visual tokens live at
each generated word. Samples are drawn by the seed, and taken from where the first method after the unpruned
model wins and loses most against it, by the results' own scores.

A sample that fails under a method costs that answer only: what there is becomes survival.partial.json, which
says why the rest is missing, and the exit status is 1.
"""

_SURVIVAL_EXAMPLE = """\
example:
  dyrate survival --model models/testbed-s --benchmarks nocaps gqa --samples 60 --output survival.json \\
      --results results/testbed/testbed-s/none/greedy.json \\
      results/testbed/testbed-s/fastv-layer=2-rate=0.5/greedy.json
"""


def register(subparsers: Subparsers) -> None:
    """Add the sub-commands."""
    look = Look.add_parser(
        subparsers, "ask about one image, and see which tokens live at each word", _LOOK, _LOOK_EXAMPLES
    )
    look.set_defaults(run=_look)
    survive = Survive.add_parser(
        subparsers, "look again at samples of a study, token by token", _SURVIVAL, _SURVIVAL_EXAMPLE
    )
    survive.set_defaults(run=_survive)
    page = subparsers.add_parser(
        "survival-page",
        help="draw the page of such records",
        description="Draw one self-contained page of what `dyrate survival` has recorded.",
        epilog="example:\n  dyrate survival-page results/testbed/survival/*.json --output survival.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    page.add_argument("records", nargs="+", type=Path, metavar="JSON")
    page.add_argument("--output", type=Path, required=True, metavar="HTML")
    page.set_defaults(run=_draw)


def _look(arguments: argparse.Namespace) -> int:
    [job] = map(settled, asked(Look, arguments))
    methods = job.methods()  # before anything slow
    if job.sample is not None:
        from dyrate.look.sources import scene_of

        scene_of(job.sample)
    from dyrate.evaluation.commands import quiet_libraries

    quiet_libraries()
    from dyrate import files
    from dyrate.look.looker import NEW_TOKENS, Looker
    from dyrate.look.page.render import look_page
    from dyrate.look.sources import photo, scene

    if job.image is not None:
        photo(job.image)
    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    fit = Fit(job.device_map, job.bits)
    looker = Looker(job.model, job.device, job.dtype, job.revision, job.chat_template, job.pixels, fit)
    settings = looker.settings(methods)
    if looker.knows:
        print(looker.knows, flush=True)
    if job.sample is None:
        assert job.image is not None
        assert job.question is not None
        print(f"\n{printable(job.question)}", flush=True)
        found = looker.look(job.image, job.question, methods, job.new_tokens or NEW_TOKENS, _say)
    else:
        one = scene(looker.model, job.sample, job.question)
        print(f"\n{one.text}", flush=True)
        new_tokens = job.new_tokens or one.new_tokens
        found = looker.look_at(one.question, job.sample, one.text, settings, new_tokens, _say, one.references)
        if one.references:
            print(f"\nreference\n  {' / '.join(one.references)}")
    for answer in found["answers"]:
        print("\n" + "\n".join(lines(answer, found["visual_tokens"])))
    if job.output is not None:
        files.write_text(job.output, look_page(found, looker.knows, job.command()))
        print(f"\n{job.output}")
    return 0


def _say(text: str) -> None:
    """Print words as they come."""
    print(printable(text), end="", flush=True)


def printable(text: str) -> str:
    """A model's text without what would steer a terminal."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def lines(answer: "Answer", visual_tokens: int) -> list[str]:
    """An answer's words with their rates and attention, and what was saved, as lines of text."""
    wide = max([5, *(len(step["word"].strip()) for step in answer["steps"])])
    wide = min(wide, max(5, shutil.get_terminal_size().columns - 45))
    found = [answer["label"]]
    found.append(f"  {'word':<{wide}}{'rate':>6}{'system':>9}{'image':>8}{'instruction':>13}{'response':>10}")
    from dyrate.look.record import in_order

    for step in answer["steps"]:
        word = printable(step["word"].replace("\n", " ").strip()) or "(end)"
        system, image, instruction, response = (f"{100 * share:.0f}%" for share in in_order(step["mass"]))
        found.append(
            f"  {word:<{wide}.{wide}}{step['rate']:>6.0%}{system:>9}{image:>8}{instruction:>13}{response:>10}"
        )
    decode = "" if answer["decode"] is None else f", {answer['decode']:.0%} at decode"
    held, whole = answer["kv_bytes"], answer["kv_bytes_whole"]
    kept = f"{answer['prefill']:.0%} at prefill{decode}"
    found.append(f"  visual tokens kept, of {visual_tokens}, mean over layers: {kept}")
    found.append(f"  KV cache: {_bytes(held)}, {_bytes(whole - held)} ({(whole - held) / whole:.0%}) saved")
    return found + [f"  {note}" for note in answer["notes"]]


def _bytes(number: int) -> str:
    size, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"


def _survive(arguments: argparse.Namespace) -> int:
    [job] = map(settled, asked(Survive, arguments))
    from dyrate.evaluation.commands import quiet_libraries

    quiet_libraries()
    from dyrate.look.record import partial
    from dyrate.look.survival import survive

    found = survive(job)
    for look in found["looks"]:
        print(f"{look['title']}: {look.get('why', '')}")
        for label, why in look.get("failed", {}).items():
            print(f"dyrate: error: {look['title']}: {label}: {why}", file=sys.stderr)
    failed = any("failed" in look for look in found["looks"])
    print(partial(job.output) if failed else job.output)
    return int(failed)


def _draw(arguments: argparse.Namespace) -> int:
    from dyrate import files
    from dyrate.look.page.render import survival_page
    from dyrate.look.record import read

    files.write_text(arguments.output, survival_page([read(path) for path in arguments.records]))
    print(arguments.output)
    return 0
