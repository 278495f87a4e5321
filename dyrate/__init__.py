"""dyrate: visual-token reduction in vision-language models.

Names are imported on first use, so that `import dyrate` and the command line stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dyrate.loaded  # noqa: F401 - before any other module: it notes the state of their sources

if TYPE_CHECKING:
    from dyrate.engine.engine import Engine
    from dyrate.methods.depth_prune import DepthBasedPrune
    from dyrate.methods.downsample import Downsample
    from dyrate.methods.dyrate import DyRate
    from dyrate.methods.fastv import FastV
    from dyrate.methods.fixed_prune import FixedPrune
    from dyrate.methods.none import NoReduction
    from dyrate.methods.random import RandomTokens
    from dyrate.methods.text_only import TextOnly
    from dyrate.methods.uniform import UniformStride
    from dyrate.methods.vtw import VTW
    from dyrate.reduction import ReductionMethod, Run
    from dyrate.registry import load_method

__version__ = "0.1.0"

_HOME = {
    "DepthBasedPrune": "dyrate.methods.depth_prune",
    "Downsample": "dyrate.methods.downsample",
    "DyRate": "dyrate.methods.dyrate",
    "Engine": "dyrate.engine.engine",
    "FastV": "dyrate.methods.fastv",
    "FixedPrune": "dyrate.methods.fixed_prune",
    "NoReduction": "dyrate.methods.none",
    "RandomTokens": "dyrate.methods.random",
    "ReductionMethod": "dyrate.reduction",
    "Run": "dyrate.reduction",
    "TextOnly": "dyrate.methods.text_only",
    "UniformStride": "dyrate.methods.uniform",
    "VTW": "dyrate.methods.vtw",
    "load_method": "dyrate.registry",
}

__all__ = [
    "VTW",
    "DepthBasedPrune",
    "Downsample",
    "DyRate",
    "Engine",
    "FastV",
    "FixedPrune",
    "NoReduction",
    "RandomTokens",
    "ReductionMethod",
    "Run",
    "TextOnly",
    "UniformStride",
    "__version__",
    "load_method",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dyrate' has no attribute {name!r}; it has {', '.join(__all__)}")
