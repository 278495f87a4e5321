"""What competes: transformers as it is, and the methods of this package on it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from dyrate.cost.work import Phases, schedule, work_of
from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.methods.dyrate import DyRate
from dyrate.predictor_config import PredictorConfig
from dyrate.predictors import Predictor, save_predictor
from dyrate.reduction import ReductionMethod
from dyrate.run import Run

PEERS = {
    "generate": "transformers' own generate(), dynamic cache",
    "static": "transformers' own generate(), static cache, compiled on a GPU",
}
CAPTURES = 2
"""Generations after which the engine has captured all that it will replay for others like them."""
_OVERHEAD = "overhead"


@dataclass
class Contender:
    """A way to generate: a method of this package, or, without one, a peer by its name."""

    name: str
    method: ReductionMethod | None = None
    fast: bool = False
    """Whether this package's own engine runs the method, and not transformers."""
    _engine: Engine | None = None

    @property
    def engine(self) -> str:
        """`graph` or `transformers`, as in `dyrate evaluate --engine`."""
        return "graph" if self.fast else "transformers"

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.method is None:
            return PEERS[self.name]
        return f"{self.method.label}, graph" if self.fast else self.method.label

    @property
    def cold(self) -> bool:
        """Whether the next generation must make what later ones use again."""
        return self.fast and self._engine is None

    def spec(self) -> dict[str, Any] | None:
        """The method as results record it; a predictor that was made for the bench, by its folder's name."""
        if self.method is None:
            return None
        spec = self.method.spec()
        if self.name.startswith(_OVERHEAD):
            spec["predictor"] = Path(spec["predictor"]).name
        return spec

    def close(self) -> None:
        """Give back the memory that is kept from one generation to the next."""
        self._engine = None

    def generate(
        self, model: Any, inputs: dict[str, Tensor], new_tokens: int, on_step: Callable[[], None]
    ) -> "Generated":
        """Generate greedily; `on_step` is called as soon as the logits of a step are asked for."""
        if self.fast and self.method is not None:
            if self._engine is None:
                self._engine = Engine(model)
            _, made = self._engine.generate(self.method, inputs, max_new_tokens=new_tokens, on_step=on_step)
            return Generated(work_of(made, self.method), made.kv_bytes)
        context: AbstractContextManager[Run | None] = (
            self.method(model) if self.method is not None else nullcontext()
        )
        options: dict[str, Any] = {"cache_implementation": "static"} if self.name == "static" else {}
        with context as run, torch.inference_mode():
            found = model.generate(
                **inputs,
                **options,
                max_new_tokens=new_tokens,
                do_sample=False,
                logits_processor=[_Steps(on_step)],
                return_dict_in_generate=True,
            )
        made = found.sequences.shape[1] - inputs["input_ids"].shape[1]
        if made != new_tokens:
            raise DyrateError(f"{self.label}: made {made} tokens instead of {new_tokens}")
        if run is not None and self.method is not None:
            return Generated(work_of(run, self.method), run.kv_bytes)
        rows, prompt = inputs["input_ids"].shape
        layers = model.config.text_config.num_hidden_layers
        return Generated(_whole(model, rows, prompt, layers, new_tokens), _cache_bytes(found.past_key_values))


@dataclass(frozen=True)
class Generated:
    """What a generation did."""

    work: Phases
    kv_bytes: int


class _Steps:
    """A logits processor that changes nothing: `generate()` calls it once per step, after the forward."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.on_step()
        return scores


def _whole(model: Any, rows: int, prompt: int, layers: int, new_tokens: int) -> Phases:
    if (family := model.config.model_type) != "llava":
        raise DyrateError(
            f"--peers: their work is known where an image is one square of patches, and {family} has others: "
            "leave them out (--peers without a name); the method none is the stock model under a hook"
        )
    patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    one = schedule([prompt] * layers, new_tokens - 1, patches=patches)
    total = one
    for _ in range(rows - 1):
        total += one
    return total


def _cache_bytes(cache: Any) -> int:
    """Bytes behind the keys and values of a cache, unused places of a static one included."""
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )


def keeping_all(heads: int, engines: Sequence[str]) -> list[Contender]:
    """DyRate with predictors that never drop anything, for a model of `heads` heads per layer."""
    found = []
    for ranking in ("attention", "mlp"):
        predictor = Predictor(PredictorConfig(layer=2, heads=heads, ranking=ranking, output="ordinal"))
        last: Any = predictor.rate.head.get_submodule("2")
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(-30.0)  # a centre at the first rate, 0
        folder = Path(mkdtemp(prefix="dyrate-bench-")) / f"keeps-all-{ranking}"
        save_predictor(predictor, folder, {"schedule": [0.0]})
        for mode in ("select", "evict"):
            method = DyRate(predictor=str(folder), mode=mode)
            found += [
                Contender(f"{_OVERHEAD} {mode}, {ranking}", method, engine == "graph")
                for engine in dict.fromkeys(engines)
            ]
    return found
