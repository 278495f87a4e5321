"""dyrate: visual-token reduction in vision-language models.

Names are imported on first use, so that `import dyrate` and the command line stay fast: those below, which
`dyrate.imports` reads off this file, and the class of each built-in method.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dyrate.loaded  # noqa: F401 - before any other module: it notes the state of their sources
from dyrate.imports import public_names

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


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    home = public_names().get(name)
    if home is None:
        known = ", ".join(sorted(public_names()))
        raise AttributeError(f"module 'dyrate' has no attribute {name!r}; it has {known}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return ["__version__", *sorted(public_names())]
