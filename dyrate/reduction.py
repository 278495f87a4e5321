"""The base class of every reduction method: fields are hyperparameters, overrides are the algorithm."""

import dataclasses
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, get_type_hints

from torch import Tensor, nn

from dyrate.declaration import check_class, check_layers
from dyrate.families import family_of
from dyrate.hooks import Attachment
from dyrate.hyperparameters import fitted, hyperparameter
from dyrate.record import Run
from dyrate.view import View

__all__ = ["DecodeMode", "Positions", "ReductionMethod", "Run", "View", "hyperparameter"]

DecodeMode = Literal["none", "evict", "select"]
Positions = Literal["original", "contiguous"]

_SYMBOLS = {"layer": "K", "rate": "R"}


@dataclasses.dataclass(frozen=True)
class ReductionMethod:
    """A way to lower the number of visual tokens; `with method(model) as run:` applies it to every
    generation.

    Subclasses are frozen dataclasses. They override what they need of: `prune_layers`, `statistics_layers`,
    `prefill`, `merge`, `decode` (with `decode_mode`), `resize`, `encode`. Rows are handled together and may
    keep different numbers of tokens. Sizes: B rows, V the largest number of visual tokens of a row.

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

    def __post_init__(self) -> None:
        cls = type(self)
        check_class(cls)  # type: ignore[arg-type] # mypy takes __hash__ for the class's own
        hints = get_type_hints(cls)
        for field in dataclasses.fields(self):
            value = fitted(cls.__name__, field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers (0-based) on entering which `prefill` and `decode` are asked."""
        return ()

    def statistics_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers whose newest query's attention is read; a prune layer sees those before it."""
        return ()

    def reported_layer(self, num_layers: int) -> int | None:
        """Return the statistics layer whose class mass `run.steps` shows: the deepest, None without one."""
        return max(self.statistics_layers(num_layers), default=None)

    def prefill(self, view: View) -> Tensor | None:
        """Return which visual tokens stay from this layer on (BoolTensor [B, V]), None for all present."""
        return None

    def merge(self, view: View, keep: Tensor) -> Tensor | None:
        """Return new hidden states of the visual tokens at this prune layer (FloatTensor [B, V, hidden]), or
        None.

        Called after `prefill`, whose answer is `keep`; only those of kept tokens have any effect.
        """
        return None

    def decode(self, view: View) -> Tensor | None:
        """Return which visual tokens this step sees from this layer on (BoolTensor [B, V]); None leaves all
        as it is.

        With `evict` the others leave the KV cache of this layer and all deeper ones. With `select` the choice
        is among those the layer holds, and stands until the next prune layer that makes one.
        """
        return None

    def resize(self, pixel_values: Tensor, patch_size: int) -> Tensor:
        """Return images (FloatTensor [images, channels, height, width]) in the size for the vision tower."""
        return pixel_values

    def encode(self, features: Tensor) -> Tensor:
        """Return fewer projected features [images, V', hidden] than the given [images, V, hidden], in prompt
        order.

        They take the places of the first V' visual tokens of their image; the other places leave at layer 0.
        """
        return features

    @property
    def decode_mode(self) -> DecodeMode:
        """What the answer of `decode` means: `evict` removes the other tokens from the KV cache for good,
        `select` attends to these at this step only; with `none` it is not asked. A class attribute will do.
        """
        return "none"

    @property
    def steady(self) -> bool:
        """Whether `decode` is one function of tensors, the same at every step: it can be captured once.

        It then looks at nothing of the view but `present`, `valid`, `visual_tokens`, `visual_counts`, the
        statistics of this step and the one before, and `state`, which gets no new entries after step 1.
        """
        return False

    def own_macs(self, visual_tokens: int, *, decode: bool) -> int:
        """Return the multiply-accumulates of the method's own matrices, for a row at prefill or at one decode
        step.

        What its statistics layers recompute is not among them.
        """
        return 0

    @property
    def content_hash(self) -> str:
        """A hash of what a hyperparameter only names, such as a file; empty where `spec()` says it all."""
        return ""

    def check_checkpoint(self, weights: str) -> None:
        """Raise `DyrateError` for a checkpoint (the hash of its content) that the method was not made for."""

    @property
    def position_policy(self) -> Positions:
        """Whether tokens keep their `original` RoPE position or are numbered without gaps."""
        return "original"

    @property
    def reduces_encoder(self) -> bool:
        """Whether fewer features than placeholders come from the encoder."""
        cls = type(self)
        return cls.resize is not ReductionMethod.resize or cls.encode is not ReductionMethod.encode

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise `DyrateError` unless the method fits a model of so many layers, and query heads in each."""
        check_layers(self, num_layers)

    def __call__(self, model: nn.Module, record: Iterable[int] = ()) -> AbstractContextManager[Run]:
        """Attach to `model`; `record` names additional layers whose class mass `run.class_mass` holds.

        Which prompt tokens are padding is settled at prefill; a decode step's `attention_mask` has no effect,
        nor have its `position_ids` where positions are renumbered. Logits are those of the tokens that reach
        the last layer, of which an integer `logits_to_keep` takes the newest. A block serves one generation
        at a time, and no copies of the model.
        Raises `DyrateError` for an unsupported model and for one that the method does not fit.
        """
        family = family_of(model)
        self.check(len(family.layers), family.text_config.num_attention_heads)
        return Attachment(self, model, record)

    def spec(self) -> dict[str, Any]:
        """Return the method as the JSON-able dict of configs and result files, which `load_method` reads."""
        values = dataclasses.asdict(self)
        lists = {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
        return {"name": self.name, **values, **lists}

    @property
    def label(self) -> str:
        """The method in a table: `FastV (K=2, R=0.5)`; other fields only where they are not the default, or
        where they are declared with `label`.
        """
        # K and R lead, then what each use of the method must say.
        fields = sorted(
            dataclasses.fields(self),
            key=lambda field: (field.name not in _SYMBOLS, field.default is not dataclasses.MISSING),
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
        title = self.title or type(self).__name__
        return f"{title} ({', '.join(shown)})" if shown else title
