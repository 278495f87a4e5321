"""What predictors are trained and validated on: the testbed's own splits, or a file of answered questions."""

from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import file_hash
from dyrate.question_files import answered_questions_from
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import Example, training_example, validation_example

Answered = tuple[Any, str, str]
"""PIL image, question, answer."""

_SCENES = 1_000_003
"""Added to the recipe's seed for scenes that the testbed's models, of seeds 0, 1, ..., have not seen."""
_CAPTION = "caption"
_HELD_OUT = 0.2


class TestbedExamples:
    """One turn of each scene of the training split; of the validation split to validate. No benchmark's."""

    __test__ = False  # not one of pytest's
    description: ClassVar[dict[str, Any]] = {
        "source": "testbed",
        "training": "train split",
        "validation": "validation split",
    }

    def __init__(self, seed: int, caption_share: float) -> None:
        self.seed, self.caption_share = seed, caption_share

    def training(self, index: int) -> Answered:
        """Return a turn of scene `index` of the training split."""
        return self._turn(training_example(_SCENES + self.seed, index), "train", index)

    def validation(self, count: int) -> list[Answered]:
        """Return turns of the first scenes of the validation split, the same for every seed."""
        return [self._turn(validation_example(_SCENES, index), "validation", index) for index in range(count)]

    def _turn(self, example: Example, split: str, index: int) -> Answered:
        seed = self.seed if split == "train" else 0
        draw = Draw("predictor", split, seed, index)
        wanted = draw.chance(self.caption_share)
        # An unreadable photo has no caption: then it is a question.
        turns = [turn for turn in example.turns if (turn.kind == _CAPTION) == wanted] or example.turns
        turn = draw.pick(turns)
        return Image.fromarray(example.image), turn.prompt, turn.answer


class FileExamples:
    """Answered questions of a file: a fifth of them, at most, to validate, the others in a random order."""

    def __init__(self, path: Path, seed: int, validation: int, limit: int | None = None) -> None:
        self.entries = list(islice(answered_questions_from(path), limit))
        if len(self.entries) < 2:
            raise DyrateError(
                f"--data {path}: {len(self.entries)} answered questions; at least 2 are needed, one to "
                "train on and one to validate"
            )
        self.seed = seed
        self._pass: tuple[int, list[int]] = (-1, [])
        order = Draw("predictor", "file", 0).shuffled(range(len(self.entries)))
        held_out = max(1, min(validation, int(_HELD_OUT * len(order))))
        self._validation, self._training = order[:held_out], order[held_out:]
        self.description: dict[str, Any] = {
            "source": path.name,
            "sha256": file_hash(path),
            "training": len(self._training),
            "validation": held_out,
        }

    def training(self, index: int) -> Answered:
        """Return an entry; each comes once per pass through the file."""
        number, place = divmod(index, len(self._training))
        if number != self._pass[0]:
            self._pass = number, Draw("predictor", "file", self.seed, number).shuffled(self._training)
        return self.entries[self._pass[1][place]]

    def validation(self, count: int) -> list[Answered]:
        """Return the entries that are not trained on."""
        return [self.entries[index] for index in self._validation[:count]]


Examples = TestbedExamples | FileExamples
"""A stream to train on, whose example i is a function of i, and some apart from it to validate on; their
`description` goes into the record, and has no machine's paths.
"""
