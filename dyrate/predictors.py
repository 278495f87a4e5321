"""What DyRate learns: from class mass to a rate, and, as our option, from per-head attention to a ranking.

All of it is a few thousand parameters, kept as `predictor.safetensors` and `predictor.json` in one folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.kernels.arguments import Layers
from dyrate.kernels.perceptron import LOG_OFFSET, perceptron
from dyrate.trained import load_tensors, save_tensors
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


class Standardise(nn.Module):
    """(x - mean) / std over the last axis, with the mean and std of the training data."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, samples: Tensor) -> None:
        """Take mean and std from FloatTensor [..., width]."""
        flat = samples.flatten(0, -2)
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp_min(1e-4))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise FloatTensor [..., width]."""
        return (values - self.mean) / self.std


class Perceptron(nn.Sequential):
    """One hidden layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))

    def of_groups(self, x: Tensor, standardise: Standardise, *, log: bool = False) -> Tensor:
        """Return FloatTensor [..., outputs] of the mean over groups of x [..., groups, inputs], standardised;
        `log`: of its logarithm. One kernel on a GPU, see `perceptron`.
        """
        return perceptron(x, Layers(standardise.mean, standardise.std, *self.parameters()), log=log)


class RatePredictor(nn.Module):
    """Class mass, of one step or of all up to now, to a distribution over the K_r rates."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.standardise = Standardise(config.inputs)
        width = config.inputs * (config.history if config.kind == "window" else 1)
        self.recurrent = nn.GRU(width, config.hidden, batch_first=True) if config.kind == "gru" else None
        outputs = config.rates if config.output == "classes" else 2
        self.head: nn.Module
        if config.kind == "linear":
            self.head = nn.Linear(width, outputs)
        elif config.kind == "gru":
            self.head = nn.Linear(config.hidden, outputs)
        else:
            self.head = Perceptron(width, config.hidden, outputs)

    def inputs(self, class_mass: Tensor) -> Tensor:
        """Return FloatTensor [..., inputs] of class mass [..., heads, 4]."""
        return class_mass.flatten(-2) if self.config.per_head else class_mass.mean(dim=-2)

    def forward(self, class_mass: Tensor) -> Tensor:
        """Return logits [batch, steps, K_r] of the class mass [batch, steps, heads, 4] of steps 0, 1, ..."""
        return self.logits(self._outputs(class_mass, {}))

    def next_rates(self, class_mass: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Return the most probable rate (float64 [batch], the lower of two) of the next step; as `step`.

        NaN where the numbers it is read off are not finite.
        """
        found = self.step(class_mass, state)
        if self.config.output == "ordinal":
            index = (self._centre(found)[:, 0] - 0.5).ceil()
        else:
            best, index = found.max(dim=-1)
            index = index.to(best.dtype).where(best.isfinite(), torch.nan)
        return index.double() / self.config.rates

    def step(self, class_mass: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Return what the head makes [batch, outputs] of the next step's class mass [batch, heads, 4].

        `state`, empty at step 0, is what the predictor remembers, tensors [batch, ...]; it is updated.
        """
        return self._outputs(class_mass[:, None], state)[:, 0]

    def _outputs(self, class_mass: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Return what the head makes [batch, steps, outputs] of the next steps [batch, steps, heads, 4]."""
        if self.config.kind == "mlp":
            assert isinstance(self.head, Perceptron)
            groups = class_mass.flatten(-2)[..., None, :] if self.config.per_head else class_mass
            return self.head.of_groups(groups, self.standardise)
        values = self.standardise(self.inputs(class_mass))
        if self.config.kind == "window":
            # Before step 0 there is nothing: zeros, the mean of the training data.
            nothing = values.new_zeros(len(values), self.config.history - 1, values.shape[2])
            past = torch.cat([state.get("predictor_past", nothing), values], dim=1)
            state["predictor_past"] = past[:, values.shape[1] :]
            values = past.unfold(1, self.config.history, 1).transpose(-1, -2).flatten(-2)
        if self.recurrent is not None:
            hidden = state.get("predictor_hidden")
            values, last = self.recurrent(values, None if hidden is None else hidden[None].contiguous())
            state["predictor_hidden"] = last[0]
        outputs: Tensor = self.head(values)
        return outputs

    def logits(self, outputs: Tensor) -> Tensor:
        """Logits [..., K_r] of the head's outputs; `ordinal`: a normal distribution, at least a rate wide."""
        if self.config.output == "classes":
            return outputs
        rates = self.config.rates
        width = 1 + rates / 8 * softplus(outputs[..., 1:])
        return -(((torch.arange(rates, device=outputs.device) - self._centre(outputs)) / width) ** 2) / 2

    def _centre(self, outputs: Tensor) -> Tensor:
        """Where among the rates 0 .. K_r - 1 the distribution's middle is, [..., 1]."""
        return outputs[..., :1].sigmoid() * (self.config.rates - 1)


class TokenRanker(nn.Module):
    """The attention that heads of several layers pay to a visual token, to that token's score."""

    def __init__(self, inputs: int, ranking: Ranking, hidden: int) -> None:
        super().__init__()
        self.standardise = Standardise(inputs)
        self.head: nn.Module = nn.Linear(inputs, 1) if ranking == "linear" else Perceptron(inputs, hidden, 1)

    @staticmethod
    def inputs(head_scores: Sequence[Tensor]) -> Tensor:
        """Return FloatTensor [..., V, layers * heads] of the attention [..., heads, V] of each layer."""
        return (TokenRanker._together(head_scores) + LOG_OFFSET).log()

    def forward(self, head_scores: Sequence[Tensor]) -> Tensor:
        """Return scores [..., V]: higher is better."""
        if isinstance(self.head, Perceptron):
            each = self._together(head_scores)[..., None, :]
            return self.head.of_groups(each, self.standardise, log=True).squeeze(-1)
        scores: Tensor = self.head(self.standardise(self.inputs(head_scores)))
        return scores.squeeze(-1)

    @staticmethod
    def _together(head_scores: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(head_scores), dim=-2).transpose(-1, -2)


class Predictor(nn.Module):
    """A rate predictor, and the rankers of prefill and decode where the ranking is learned."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.ranking != "attention"
        shallow, lagged = config.heads * config.layer, config.heads * len(config.lagged)
        self.prefill_ranker = TokenRanker(shallow, config.ranking, config.ranking_hidden) if learned else None
        self.decode_ranker = (
            TokenRanker(shallow + lagged, config.ranking, config.ranking_hidden) if learned else None
        )
        # Last: what a seed makes of the rankers does not depend on the kind of rate predictor.
        self.rate = RatePredictor(config)

    @property
    def parameters_count(self) -> int:
        """Number of learned values."""
        return sum(parameter.numel() for parameter in self.parameters())


def macs(module: nn.Module | None) -> int:
    """Return a module's multiply-accumulates for one input: the numbers in its matrices."""
    parameters = module.parameters() if module is not None else ()
    return sum(parameter.numel() for parameter in parameters if parameter.dim() == 2)


def save_predictor(predictor: Predictor, folder: Path, record: Mapping[str, Any]) -> None:
    """Write weights and `record` (recipe, model, curve, provenance) into `folder`, atomically each."""
    hashed = save_tensors(predictor.state_dict(), folder / WEIGHTS_FILE)
    head = {"schema": SCHEMA, "version": VERSION, "sha256": hashed}
    document = {**head, "config": asdict(predictor.config), **record}
    files.write_text(folder / RECORD_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")


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


def load_predictor(folder: Path) -> Predictor:
    """Read a predictor in evaluation mode, in float32.

    A `DyrateError` for a missing or unfit file, for weights of another record, and for what is not finite.
    """
    record = read_record(folder)
    try:
        config = PredictorConfig(**record["config"])
    except (DyrateError, TypeError) as error:
        raise DyrateError(f"{folder / RECORD_FILE}: {error}") from None
    with torch.random.fork_rng(devices=[]):  # of what is drawn here, whoever samples next notices nothing
        predictor = Predictor(config)
    weights, wanted = folder / WEIGHTS_FILE, predictor.state_dict()
    predictor.load_state_dict(
        load_tensors(weights, folder / RECORD_FILE, record.get("sha256"), wanted, "train the predictor again")
    )
    return predictor.eval().requires_grad_(False)
