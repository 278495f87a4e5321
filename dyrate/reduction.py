"""The base class of every reduction method: fields are hyperparameters, overrides are the algorithm."""

import dataclasses
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, get_type_hints

from torch import nn

from dyrate.contract import Contract, Kept
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.hyperparameters import fitted, hyperparameter
from dyrate.installation import Installation
from dyrate.method_class import check_class, check_needs
from dyrate.needs import DecodeMode, Needs
from dyrate.question_reader import QuestionReader
from dyrate.run import Run
from dyrate.typed import Origin
from dyrate.views import DecodeView, PrefillView, View

__all__ = [
    "DecodeMode",
    "DecodeView",
    "Installation",
    "Kept",
    "Needs",
    "PrefillView",
    "ReductionMethod",
    "Run",
    "View",
    "hyperparameter",
]

_SYMBOLS = {"layer": "K", "rate": "R", "budget": "B"}


@dataclasses.dataclass(frozen=True)
class ReductionMethod(Contract):
    """A way to lower the number of visual tokens; `with method(model) as run:` applies it to every
    generation.

    Subclasses are frozen dataclasses. They say in `needs` when they are asked and what they read, and
    override what answers: `prefill`, `decode`, `install`. Who drops the lowest scores once is a
    `PrefillPruning`, who does so at every step a `StepwisePruning`, and overrides less.

    A class whose overrides would not be asked, and a field of an unfit value, are a `DyrateError`.
    """

    name: ClassVar[str] = ""
    """The name in configs; a method given as `path/to/file.py:Class` gets that."""
    title: ClassVar[str] = ""
    """The name in tables."""
    paper: ClassVar[str] = ""
    """Where the method was published, e.g. "arXiv:2403.06764"."""
    changes_nothing: ClassVar[bool] = False
    """Declared by a class that means to override nothing."""
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Settings under which the tests run it; those of a model of six layers."""
    keeps_everything: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Settings under which it is the unpruned model."""

    def __post_init__(self) -> None:
        cls = type(self)
        check_class(cls)  # type: ignore[arg-type] # mypy takes __hash__ for the class's own
        hints = get_type_hints(cls)
        for field in dataclasses.fields(self):
            value = fitted(cls.__name__, field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for field in dataclasses.fields(self):
            for other in self._replaced(field):
                if getattr(self, other) != cls.__dataclass_fields__[other].default:
                    raise DyrateError(
                        f"{cls.__name__}({field.name}={getattr(self, field.name)!r}, "
                        f"{other}={getattr(self, other)!r}): expected one of the two"
                    )

    @property
    def content_hash(self) -> str:
        """A hash of what a hyperparameter only names, such as a file; empty where `spec()` says it all."""
        return ""

    def check_checkpoint(self, weights: str) -> None:
        """Raise `DyrateError` for a checkpoint (the hash of its content) that the method was not made for."""

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise `DyrateError` unless the method fits a model of so many layers, and query heads in each."""
        check_needs(self, num_layers)

    def __call__(
        self, model: nn.Module, record: Iterable[int] = (), questions: QuestionReader | None = None
    ) -> AbstractContextManager[Run]:
        """Attach to `model`; `record` names additional layers whose class mass `run.class_mass` holds, and
        `questions` reads text for a method that looks at it.

        Which prompt tokens are padding is settled at prefill; a decode step's `attention_mask` has no effect,
        nor have its `position_ids` where positions are renumbered. Logits are those of the tokens that reach
        the last layer, of which an integer `logits_to_keep` takes the newest. A block serves one generation
        at a time, and no copies of the model.
        Raises `DyrateError` for an unsupported model and for one that the method does not fit.
        """
        # Many read methods and attach none, a study before each of its runs, and these imports take seconds.
        from dyrate.attachment import Attachment

        family = family_of(model)
        self.check(len(family.layers), family.text_config.num_attention_heads)
        return Attachment(self, model, record, questions)

    def spec(self) -> dict[str, Any]:
        """Return the method as the JSON-able dict of configs and result files, which `load_method` reads."""
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.metadata.get("replaces"):
                for idle in self._replaced(field) or (field.name,):
                    del values[idle]
        lists = {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
        return {"name": self.name, **values, **lists}

    def _replaced(self, field: "dataclasses.Field[Any]") -> tuple[str, ...]:
        """The fields that this one stands for, if it does."""
        found: tuple[str, ...] = field.metadata.get("replaces", ())
        return found if getattr(self, field.name) is not None else ()

    @property
    def origin(self) -> Origin | None:
        """Of DyRate, its ablations and extensions: whether the paper describes it; None for the others."""
        return None

    @property
    def full_title(self) -> str:
        """What the label begins with."""
        return self.title or type(self).__name__

    @property
    def label(self) -> str:
        """The method in a table: `FastV (K=2, R=0.5)`; other fields only where they are not the default, or
        where they are declared with `label`.
        """
        # K, R and B lead, then what each use of the method must say.
        symbols, spec = list(_SYMBOLS), self.spec()
        fields = sorted(
            (field for field in dataclasses.fields(self) if field.name in spec),
            key=lambda field: (
                symbols.index(field.name) if field.name in _SYMBOLS else len(symbols),
                field.default is not dataclasses.MISSING,
            ),
        )
        shown = [
            field.metadata["label"](value)
            if "label" in field.metadata
            else f"{_SYMBOLS.get(field.name, field.name)}={value}"
            for field in fields
            if (value := getattr(self, field.name)) != field.default
            or field.name in _SYMBOLS
            or "label" in field.metadata
        ]
        title = self.full_title
        return f"{title} ({', '.join(shown)})" if shown else title
