"""Predictors with random weights for the tiny model, in a folder that goes away with the process."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dyrate.predictor_config import PredictorConfig
from dyrate.predictors import Predictor, save_predictor

HEADS = 4
SCHEDULE = [0.3, 0.7, 0.15]
_HOME = TemporaryDirectory(prefix="dyrate-predictors-")


def tiny_predictor(name: str, *, seed: int = 0, schedule: list[float] | None = None, **config: Any) -> str:
    """Save a predictor whose rates jump between rows and steps; returns its folder."""
    return _save(name, random_predictor(seed, **config), schedule)


def always_zero(name: str, **config: Any) -> str:
    """Save a predictor that keeps everything, however unlikely its input."""
    predictor = random_predictor(0, **config)
    with torch.no_grad():
        last = [p for key, p in predictor.rate.named_parameters() if key.startswith("head.")]
        for parameter in last[-2:]:
            parameter.zero_()
        last[-1][0] = 1.0
    return _save(name, predictor)


def random_predictor(seed: int, **config: Any) -> Predictor:
    options: dict[str, Any] = {"layer": 2, "heads": HEADS, "rates": 10, "hidden": 8, "ranking_hidden": 6}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        predictor = Predictor(PredictorConfig(**{**options, **config}))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # Class mass lies in 0..1: spread out, so that small differences count.
        predictor.rate.standardise.mean.fill_(0.25)
        predictor.rate.standardise.std.fill_(0.05)
        for ranker in (predictor.prefill_ranker, predictor.decode_ranker):
            if ranker is not None:
                ranker.standardise.mean.fill_(-4)
                ranker.standardise.std.fill_(2)
    return predictor


def _save(name: str, predictor: Predictor, schedule: list[float] | None = None) -> str:
    folder = Path(_HOME.name) / name
    save_predictor(predictor, folder, {"schedule": schedule or SCHEDULE})
    return str(folder)
