"""What DyRate learns: from class mass to a rate, and, as our option, from per-head attention to a ranking.

All of it is a few thousand parameters, kept as `predictor.safetensors` and `predictor.json` in one folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.kernels.arguments import Layers
from dyrate.kernels.perceptron import LOG_OFFSET, perceptron
from dyrate.predictor_config import (
    RECORD_FILE,
    SCHEMA,
    VERSION,
    WEIGHTS_FILE,
    PredictorConfig,
    Ranking,
    read_record,
)
from dyrate.trained import load_tensors, save_tensors


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
