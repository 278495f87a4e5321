"""`dyrate methods` and `dyrate search-vtw`: what methods there are, and the layer from which VTW may drop."""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation.job import Device, Dtype
from dyrate.jobs import Job, Subparsers, asked, option
from dyrate.typed import File, Positive

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod


class VtwSearch(Job):
    """Which layer to search for: the options of `dyrate search-vtw`."""

    command_name = "search-vtw"

    model: Annotated[str, option("what", "DIR_OR_ID", "checkpoint folder or hub id")]
    eta: Annotated[float, option("how")] = 0.003
    """largest divergence allowed; official: 0.003 for LLaVA-1.5-7B, 0.0005 for 13B, 0.0001 for
    LLaVA-1.6-Vicuna-7B"""
    first_layer: Annotated[int, option("how", "K", "shallowest layer to try")] = 5
    data: Annotated[File | None, option("data", "FILE")] = None
    """.jsonl or .parquet with `image` and `question` (default: the testbed's validation split)"""
    limit: Annotated[Positive, option("data", "N", "questions to use")] = 20
    seed: Annotated[int, option("data", "S", "of the validation split")] = 0
    device: Device = "auto"
    dtype: Dtype = "auto"
    output: Annotated[File | None, option("result", "FILE", "also write the outcome as JSON")] = None


def register(subparsers: Subparsers) -> None:
    """Add `dyrate methods` and `dyrate search-vtw`; imports nothing heavy."""
    methods = subparsers.add_parser(
        "methods",
        help="list the reduction methods and their hyperparameters",
        description="List the reduction methods: built in, registered by installed packages (entry points\n"
        "`dyrate.methods`), or one given as path/to/file.py:Class.",
        epilog="examples:\n  dyrate methods\n  dyrate methods fastv\n  dyrate methods fastv --schema\n"
        "  dyrate methods --markdown > docs/methods.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="show this method only, in full")
    methods.add_argument("--schema", action="store_true", help="print the JSON schema of NAME's config entry")
    methods.add_argument("--markdown", action="store_true", help="print a page about all built-in ones")
    methods.set_defaults(run=_methods)

    search = VtwSearch.add_parser(
        subparsers,
        "find the layer from which VTW can withdraw visual tokens",
        "VTW's published layer search (arXiv:2405.05803): withdraw the visual tokens from each\n"
        "layer on, compare the next-token distribution with the unpruned model's, and choose the\n"
        "first layer at which the mean KL divergence is at most eta.",
        "examples:\n  dyrate search-vtw --model models/testbed-s\n"
        "  dyrate search-vtw --model llava-hf/llava-1.5-7b-hf --data questions.jsonl --eta 0.003",
    )
    search.set_defaults(run=_search)


def _methods(arguments: argparse.Namespace) -> int:
    from dyrate.catalogue import Entry, entries, markdown
    from dyrate.registry import class_of, references, schema

    if arguments.markdown:
        print(markdown(entries()), end="")
        return 0
    if arguments.name is None:
        if arguments.schema:
            raise DyrateError("--schema needs the name of a method: dyrate methods fastv --schema")
        rows = [(name, *_row(name)) for name in references()]
        indent = max(len(name) for name, *_ in rows)
        for name, fields, paper, line in rows:
            print(f"{name:{indent}}  {line}" + (f" {paper}" if paper else ""))
            if fields:
                print(f"{'':{indent}}  {fields}")
        return 0
    cls = class_of(arguments.name)
    if arguments.schema:
        print(json.dumps(schema(cls), indent=2))
        return 0
    _, paper, line = _summary(cls)
    print(f"{arguments.name} ({paper})" if paper else arguments.name)
    print(f"  {line}")
    entry = Entry(arguments.name, cls)
    print(f"  where: {entry.place}")
    for read in entry.reads:
        print(f"  reads: {read}")
    for name, entry in schema(cls)["properties"].items():
        if name != "name":
            default = f", default {entry['default']!r}" if "default" in entry else ""
            print(f"  {name}: {entry.get('type', 'any')}{default}. {entry.get('description', '')}".rstrip())
    return 0


def _row(name: str) -> tuple[str, str, str]:
    """A method's summary; of a plug-in that fails, why: it must not hide the others."""
    from dyrate.registry import class_of

    try:
        return _summary(class_of(name))
    except DyrateError as error:
        return "", "", f"cannot be used: {error}"


def _summary(cls: "type[ReductionMethod]") -> tuple[str, str, str]:
    """Fields with defaults, but for those that stand for others; the paper; the docstring's first line."""
    from dyrate.registry import schema

    properties = sorted(schema(cls)["properties"].items(), key=lambda field: field[0] != "layer")
    fields = [
        f"{name}={entry['default']}" if "default" in entry else name
        for name, entry in properties
        if name != "name" and "replaces" not in entry
    ]
    return " ".join(fields), cls.paper, (cls.__doc__ or "").strip().partition("\n")[0]


def _search(arguments: argparse.Namespace) -> int:
    from dyrate.evaluation.checkpoint import choose_device, load, locate
    from dyrate.evaluation.placement import settled
    from dyrate.methods.vtw_search import search_layer
    from dyrate.question_files import questions_from

    [job] = map(settled, asked(VtwSearch, arguments))
    questions = _testbed_questions(job.seed) if job.data is None else questions_from(job.data)
    processor, model = load(locate(job.model), choose_device(job.device), job.dtype)
    inputs = _encoded(processor, model, islice(questions, job.limit))
    found = search_layer(model, inputs, eta=job.eta, first_layer=job.first_layer)
    print("layer  mean KL divergence")
    for layer, value in found.divergence.items():
        mark = f"  <- first at most {found.eta:g}" if layer == found.layer else ""
        print(f"{layer:5d}  {value:.6f}{mark}")
    if job.output is not None:
        files.write_text(job.output, found.to_json())
    if found.layer is None:
        raise DyrateError(
            f"no layer stays within eta = {found.eta:g} over {found.samples} questions; raise --eta"
        )
    print(f'choice over {found.samples} questions: {{"name": "vtw", "layer": {found.layer}}}')
    return 0


def _testbed_questions(seed: int) -> Iterator[tuple[Any, str]]:
    """Yield one question per validation scene, going through the kinds of questions that a scene has."""
    from itertools import count

    from PIL import Image

    from dyrate.testbed.world.examples import validation_example

    for index in count():
        example = validation_example(seed, index)
        yield Image.fromarray(example.image), example.turns[index % len(example.turns)].prompt


def _encoded(processor: Any, model: Any, questions: Iterator[tuple[Any, str]]) -> Iterator[Any]:
    from dyrate.evaluation.prompts import PromptStyle

    style = PromptStyle.of(processor, model.config.model_type)
    for image, question in questions:
        inputs = processor(images=[image], text=[style.render(question, 1)], return_tensors="pt")
        yield inputs.to(model.device, model.dtype)
