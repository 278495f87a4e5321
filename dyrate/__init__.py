"""dyrate: visual-token reduction in vision-language models.

Names are imported on first use, so that `import dyrate` and the command line stay fast. The class of each
built-in method is among them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dyrate.loaded  # noqa: F401 - before any other module: it notes the state of their sources

if TYPE_CHECKING:
    from dyrate.engine.engine import Engine as Engine
    from dyrate.methods.prefill_pruning import PrefillPruning as PrefillPruning
    from dyrate.methods.stepwise_pruning import StepwisePruning as StepwisePruning
    from dyrate.question_reader import QuestionReader as QuestionReader
    from dyrate.reduction import DecodeView as DecodeView
    from dyrate.reduction import Installation as Installation
    from dyrate.reduction import Kept as Kept
    from dyrate.reduction import Needs as Needs
    from dyrate.reduction import PrefillView as PrefillView
    from dyrate.reduction import ReductionMethod as ReductionMethod
    from dyrate.reduction import Run as Run
    from dyrate.reduction import hyperparameter as hyperparameter
    from dyrate.registry import load_method as load_method

__version__ = "0.1.0"

_HOME = {
    "DecodeView": "dyrate.reduction",
    "Engine": "dyrate.engine.engine",
    "Installation": "dyrate.reduction",
    "Kept": "dyrate.reduction",
    "Needs": "dyrate.reduction",
    "PrefillPruning": "dyrate.methods.prefill_pruning",
    "PrefillView": "dyrate.reduction",
    "QuestionReader": "dyrate.question_reader",
    "ReductionMethod": "dyrate.reduction",
    "Run": "dyrate.reduction",
    "StepwisePruning": "dyrate.methods.stepwise_pruning",
    "hyperparameter": "dyrate.reduction",
    "load_method": "dyrate.registry",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return dir(import_module("dyrate"))
    home = _homes().get(name)
    if home is None:
        known = ", ".join(sorted(_homes()))
        raise AttributeError(f"module 'dyrate' has no attribute {name!r}; it has {known}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return ["__version__", *sorted(_homes())]


def _homes() -> dict[str, str]:
    from dyrate.registry import built_in

    methods = (reference.partition(":") for reference in built_in().values())
    return {**_HOME, **{name: module for module, _, name in methods}}
