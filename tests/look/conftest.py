"""A tiny checkpoint that is loaded once, and looked at by many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyrate.look.looker import Looker
from dyrate.look.record import Look
from dyrate.predictors import save_predictor
from tests.evaluation.stand_ins import SIZE, make_checkpoint
from tests.runtime.tiny_predictors import random_predictor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("look") / "tiny")


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    save_predictor(random_predictor(0, layer=1, heads=2), folder, {"schedule": [0.5], "recipe": {}})
    return folder


@pytest.fixture(scope="session")
def looker(checkpoint: Path) -> Looker:
    return Looker(str(checkpoint), device="cpu")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (2 * SIZE, SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def look(looker: Looker, photo: Image.Image) -> Look:
    methods = [{"name": "fastv", "layer": 1}, {"name": "fixed_prune", "layer": 1, "mode": "evict"}]
    return looker.look(photo, "What is this?", methods, new_tokens=6)
