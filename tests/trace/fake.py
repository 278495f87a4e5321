"""Made-up traces: class mass as a formula, and the summary that comes of it."""

import numpy as np

from dyrate.trace.files import Summary
from dyrate.trace.trends import by_layer, curve, grows, trends

LAYERS = 3


def mass(image: list[float], response: list[float] | None = None) -> np.ndarray:
    """Class mass [steps, layers, 4] that is the same in each layer; what is left goes to the instruction."""
    response = response or [0.0] * len(image)
    steps = [
        [0.0, img, 1 - img - res, res] for img, res in zip(image, response, strict=True)
    ]  # sys, img, ins, res
    return np.repeat(np.array(steps, np.float32)[:, None], LAYERS, axis=1)


def captions(samples: int = 40, steps: int = 8, fall: float = 0.04) -> dict[int, np.ndarray]:
    """Answers in which the image loses `fall` per step, more or less, and the response gains 0.05."""
    dice = np.random.default_rng(0)
    return {
        sample: mass(
            [0.7 - fall * t + dice.uniform(-0.03, 0.03) for t in range(steps + sample % 3)],
            [0.02 * t for t in range(steps + sample % 3)],
        )
        for sample in range(samples)
    }


def summary(model: str, study: str = "smoke", fall: float = 0.04) -> Summary:
    """One benchmark of captions and one of single words."""
    words = {sample: mass([0.6, 0.5]) for sample in range(12)}
    return {
        "schema": "dyrate.trace",
        "version": 1,
        "study": study,
        "model": model,
        "layers": LAYERS,
        "heads": 2,
        "benchmarks": {
            name: {
                "task": f"{name}_testbed",
                "samples": len(samples),
                "growing": sum(grows(found) for found in samples.values()),
                "steps": float(np.mean([len(found) for found in samples.values()])),
                "trends": trends(samples, 0),
                "curve": curve(samples, 0),
                "img_by_layer": by_layer(samples),
            }
            for name, samples in (("nocaps", captions(fall=fall)), ("gqa", words))
        },
        "meta": {"command": f"dyrate trace --model {model}", "seed": 0, "device": "cpu", "dtype": "float32"},
    }
