"""Asks a model about one image under several methods, and takes from each run what its attention saw."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import TextStreamer

from dyrate.contract import Contract
from dyrate.cost.shapes import ModelShape
from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.checkpoint import base_of
from dyrate.evaluation.placement import WHOLE, Fit
from dyrate.evaluation.requests import Question, Request
from dyrate.evaluation.setting import Setting
from dyrate.families import family_of
from dyrate.look.picture import pictured
from dyrate.look.record import CLASSES, Answer, Look, Mass, Step
from dyrate.look.sources import in_colors, photo

if TYPE_CHECKING:
    from dyrate.run import Run

Method = str | Mapping[str, Any]
Say = Callable[[str], None]

NEW_TOKENS = 64
UNPRUNED = "none"
_SCENES = (
    "{name} is a small model of this project's testbed. It knows nothing but synthetic scenes of coloured "
    "shapes and printed signs, and the questions asked about them: of a photo, its answers mean nothing. It "
    "is not LLaVA-1.5."
)


class Looker:
    """A loaded model, as an evaluation loads it, that answers one question at a time.

    transformers generates, on a GPU as well: this package's engine keeps no record of which tokens live.
    """

    def __init__(
        self,
        model: str = "models/testbed-s",
        device: str = "auto",
        dtype: str = "float32",
        revision: str | None = None,
        chat_template: str | None = None,
        pixels: tuple[int, int] | None = None,
        fit: Fit = WHOLE,
    ) -> None:
        """Load a checkpoint's folder or hub id; raises `DyrateError` for what an evaluation refuses."""
        self.model = DyrateModel(
            model,
            device=device,
            dtype=dtype,
            engine="transformers",
            revision=revision,
            chat_template=chat_template,
            pixels=pixels,
            **fit.told,
        )
        self.family = family_of(self.model.model)
        name = Path(model).name
        trained_here = (base_of(self.model.folder) / "training.json").is_file()
        self.knows = _SCENES.format(name=name) if trained_here else ""
        """What a reader must know of a model that this project trained; empty for others."""
        self.model.recorded = range(len(self.family.layers))

    def look(
        self,
        image: str | Path | Image.Image,
        question: str,
        methods: Iterable[Method] = (),
        new_tokens: int = NEW_TOKENS,
        say: Say | None = None,
    ) -> Look:
        """Ask about a photo: the file of an image, or a PIL image.

        `methods` are what `load_method` takes; the unpruned model answers first. `say` is told the words as
        they are made. Raises `DyrateError` for an image that is none, an empty question, an unknown method,
        and one that refuses the model.
        """
        if not isinstance(question, str) or not question.strip():
            raise DyrateError(f"question: {question!r:.80} asks nothing")
        if isinstance(image, Image.Image):
            title, pixels = "image", in_colors(lambda: image, "image")
        else:
            title, pixels = os.path.basename(image), photo(Path(image))  # noqa: PTH119 - of any text
        request = Request(question, "{}", lambda row: [row], 0, "look", title)
        return self.look_at(
            self.model.question(request, [pixels]), title, question, self.settings(methods), new_tokens, say
        )

    def settings(self, methods: Iterable[Method]) -> list[Setting]:
        """The settings that answer: the unpruned model's first, each method's once.

        Raises `DyrateError` for an unknown method, and for one that refuses the model.
        """
        found = {setting.method: setting for setting in map(Setting.of, (UNPRUNED, *methods))}
        for setting in found.values():
            self.model.check(setting)
            setting.method(self.model.model)  # refuses what it cannot attach to
        return list(found.values())

    def look_at(
        self,
        question: Question,
        title: str,
        text: str,
        settings: Sequence[Setting],
        new_tokens: int,
        say: Say | None = None,
        references: Sequence[str] = (),
        failed: dict[str, str] | None = None,
    ) -> Look:
        """Answer a question as the model gets it; `text` is how a reader sees it.

        Where `failed` is given, it takes what is wrong with a method by its label, and the others answer.
        """
        answers: list[Answer] = []
        inputs: Mapping[str, Tensor] = {}
        for setting in settings:
            label = "unpruned" if setting.method.name == UNPRUNED else setting.method.label
            streamer = None
            if say is not None:
                say(f"\n{label}\n  ")
                streamer = _Words(self.model.tokenizer, say)
            try:
                inputs, made, run = self.model.generate(setting, [question], new_tokens, streamer)
            except Exception as error:
                if failed is None or not answers:  # without the unpruned answer there is nothing to compare
                    raise
                failed[label] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            answers.append(self._answer(setting, label, made[0], run))
        found: Look = {
            "title": title,
            "question": text,
            "references": [*references],
            "visual_tokens": int(run.visual_tokens[0]),
            "picture": pictured(
                self.family,
                inputs,
                question.images,
                int(run.visual_tokens[0]),
                self.model.processor.image_processor,
            ),
            "answers": answers,
        }
        if failed:
            found["failed"] = failed
        return found

    def _answer(self, setting: Setting, label: str, made: Tensor, run: "Run") -> Answer:
        """What a run tells of its one row."""
        seen = run.seen[:, :, 0].cpu()  # [steps, layers, V]
        mass = torch.stack([run.class_mass[layer][:, 0] for layer in self.model.recorded], dim=1)
        mass = mass.mean(dim=2).double().mean(dim=1).cpu()  # [steps, 4]; heads first, as a trace has them
        rates = run.steps["rate"].tolist()
        words = spoken(lambda ids: self.model.tokenizer.decode(ids, skip_special_tokens=True), made.tolist())
        sets: dict[tuple[int, ...], int] = {}
        steps: list[Step] = []
        for step, word in enumerate(words):
            tokens = [tuple(layer.nonzero().flatten().tolist()) for layer in seen[step]]
            steps.append(
                {
                    "word": word,
                    "mass": cast(Mass, dict(zip(CLASSES, mass[step].tolist(), strict=True))),
                    "rate": rates[step],
                    "sets": [sets.setdefault(one, len(sets)) for one in tokens],
                }
            )
        shares = seen.double().mean(dim=(1, 2)).tolist()
        held, whole = self._cache(run, len(steps) - 1)
        return {
            "method": setting.method.spec(),
            "label": label,
            "text": self.model.tokenizer.decode(made, skip_special_tokens=True),
            "steps": steps,
            "sets": [list(tokens) for tokens in sets],
            "prefill": sum(len(rows[0]) for rows in run.kept.values()) / (len(run.kept) * seen.shape[2]),
            "decode": sum(shares[1:]) / len(shares[1:]) if shares[1:] else None,
            "kv_bytes": held,
            "kv_bytes_whole": whole,
            "notes": self._notes(setting.method, run),
        }

    def _cache(self, run: "Run", fed: int) -> tuple[int, int]:
        """Bytes of keys and values after so many decode steps: those held, and those had nothing left."""
        shape = ModelShape.of(self.model.model.config).text
        width = shape.kv_width * torch.finfo(self.model.model.dtype).bits // 8
        prompt = int(run.text_tokens[0] + run.visual_tokens[0])
        return int(run.kv_lengths[:, 0].sum()) * width, shape.layers * (prompt + fed) * width

    def _notes(self, method: Contract, run: "Run") -> list[str]:
        """What a reader of the picture must know: tokens that are more, or other, than their own patch."""
        found = []
        if type(method).install is not Contract.install:
            found.append(
                "This method changes the image or the vision tower: a patch that is shown stands for the "
                "feature that took its place, which may be of several patches or of a larger one."
            )
        if run.merged:
            layers = f"layer{'s' * (len(run.merged) > 1)} {', '.join(map(str, run.merged))}"
            found.append(
                f"On entering {layers}, tokens are merged: one that lives carries what others gave it."
            )
        needs = method.needs(len(self.family.layers))
        if ("ins", "img") in needs.blocked:
            found.append("Instruction and answer see the image through its compression tokens alone.")
        if needs.decode:
            found.append(
                "Tokens that a step leaves out are evicted from the KV cache, and never return."
                if needs.decode_mode == "evict"
                else "Tokens that a step leaves out stay in the KV cache; a later step may see them again."
            )
        return found


class _Words(TextStreamer):  # type: ignore[misc]
    """Hands on the text of new tokens, word by word."""

    def __init__(self, tokenizer: Any, say: Say) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand on what is sure by now."""
        self._say(text + "\n" * stream_end)


def spoken(decode: Callable[[list[int]], str], ids: list[int]) -> list[str]:
    """What each of an answer's tokens adds to its text; a character of several tokens comes with the last.

    Their concatenation is the text, unless later tokens change what earlier ones said.
    """
    found: list[str] = []
    before = ""
    for end in range(1, len(ids) + 1):
        now = decode(ids[:end])
        if now.endswith("\ufffd") and end < len(ids):
            now = before
        found.append(now[len(os.path.commonprefix([before, now])) :])  # noqa: RUF071 - of characters
        before = now
    return found
