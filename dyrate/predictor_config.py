"""The shape of a predictor, and its record, `predictor.json`. Needs no torch: reports read it."""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.typed import Origin

CLASSES = 4
WEIGHTS_FILE, RECORD_FILE = "predictor.safetensors", "predictor.json"
SCHEMA, VERSION = "dyrate.predictor", 1

Kind = Literal["linear", "mlp", "window", "gru"]
Output = Literal["classes", "ordinal"]
Ranking = Literal["attention", "linear", "mlp"]
_LEAST = (("layer", 1), ("heads", 1), ("rates", 2), ("hidden", 1), ("history", 1), ("ranking_hidden", 1))


@dataclass(frozen=True)
class PredictorConfig:
    """The shape of a predictor, and the place in the model that it was made for."""

    layer: int
    """Prune layer K >= 1; class mass is that of layer K-1."""
    heads: int
    """Query heads of a layer of the model."""
    kind: Kind = "mlp"
    """`linear` and `mlp` see the present step, `window` the last `history` steps, `gru` all steps."""
    rates: int = 20
    """K_r: the rates are 0, 1/K_r, ..., (K_r - 1)/K_r."""
    output: Output = "classes"
    """`classes`: a logit for each rate, as the paper has it. `ordinal`: a centre among the rates and a width,
    so that what is learned about one rate holds for its neighbours.
    """
    per_head: bool = False
    """Whether every head's class mass is an input, or their mean only."""
    hidden: int = 32
    """Width of the hidden layer; no effect on `linear`."""
    history: int = 4
    """Steps that `window` sees, the present one included."""
    ranking: Ranking = "attention"
    """How visual tokens are ranked: by layer K-1's mean attention, or by a learned function of the attention
    of every head of layers 0..K-1.
    """
    ranking_hidden: int = 32
    """Width of the learned ranking's hidden layer; no effect on `linear`."""
    lagged: tuple[int, ...] = ()
    """Layers >= K whose attention at the step before also ranks tokens at decode; they see all that is held.
    """

    @property
    def origin(self) -> Origin:
        """Whose predictor this is: the paper's reads class mass alone and ranks by layer K-1's attention."""
        plain = self.ranking == "attention" and not self.per_head and not self.lagged
        return "paper" if plain else "ours"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lagged", tuple(self.lagged))
        checks = {name: (_whole(getattr(self, name), least), f"at least {least}") for name, least in _LEAST}
        checks["kind"] = self.kind in get_args(Kind), f"one of {', '.join(get_args(Kind))}"
        checks["output"] = self.output in get_args(Output), f"one of {', '.join(get_args(Output))}"
        checks["per_head"] = type(self.per_head) is bool, "true or false"
        checks["ranking"] = self.ranking in get_args(Ranking), f"one of {', '.join(get_args(Ranking))}"
        if checks["layer"][0]:
            fits = all(_whole(layer, self.layer) for layer in self.lagged)
            fits = fits and len(set(self.lagged)) == len(self.lagged)
            checks["lagged"] = fits, f"layers from {self.layer} on, each once"
        wrong = [
            f"{name}={getattr(self, name)!r}: expected {expected}"
            for name, (fits, expected) in checks.items()
            if not fits
        ]
        if wrong:
            raise DyrateError(f"predictor config: {'; '.join(wrong)}")

    @property
    def inputs(self) -> int:
        """Numbers per step that the rate is predicted from."""
        return CLASSES * (self.heads if self.per_head else 1)


def _whole(value: object, least: int) -> bool:
    """Whether a value, of a record perhaps, is a whole number of at least `least`."""
    return type(value) is int and value >= least


def read_record(folder: Path) -> dict[str, Any]:
    """Return the checked content of a predictor's `predictor.json`; a `DyrateError` if it is none."""
    path = folder / RECORD_FILE
    if not path.exists():
        raise DyrateError(f"there is no predictor in {folder}: train one with `dyrate train-predictor`")
    try:
        record = files.read_json(path)
    except DyrateError as error:
        raise DyrateError(f"a predictor's record cannot be read: {error}") from None
    if not isinstance(record, dict) or (record.get("schema"), record.get("version")) != (SCHEMA, VERSION):
        raise DyrateError(f"{path}: expected a record of schema {SCHEMA}, version {VERSION}")
    known = {field.name for field in fields(PredictorConfig)}
    needed = {field.name for field in fields(PredictorConfig) if field.default is MISSING}
    config = record.get("config")
    if not isinstance(config, dict) or not needed <= set(config) <= known:
        raise DyrateError(
            f"{path}: config: expected the keys {', '.join(sorted(needed))} and perhaps "
            f"{', '.join(sorted(known - needed))}"
        )
    return record


def trained_for(folder: Path) -> str | None:
    """The hash of the model's weights that a predictor was trained on; None where its record has none."""
    model = read_record(folder).get("model")
    return model.get("weights") if isinstance(model, dict) else None
