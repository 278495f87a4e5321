"""Made-up documents in the schema of the real ones."""

import json
from pathlib import Path
from typing import Any

from dyrate.cost.shapes import LLAVA
from dyrate.speed.documents import FOLDER, Documents, read

FIXTURE = Path(__file__).with_name("decode.json")
NONE, REPLAY = {"name": "none"}, {"name": "replay", "layer": 2, "rates": [0.9, 0.5]}
FASTV = {"name": "fastv", "layer": 2, "rate": 0.5}
SHAPE = LLAVA["LLaVA-1.5-7B"]


def spread(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value, "rounds": 3}


def row(method: Any, *, batch: int = 1, engine: str = "graph", **changes: Any) -> dict[str, Any]:
    """A contender twice as fast where it drops tokens, at any batch."""
    half = 2 if method and method["name"] not in ("none",) else 1
    name = method["name"] if method else "generate"
    return {
        "contender": name,
        "label": f"{name}, {engine}",
        "engine": engine,
        "method": method,
        "batch": batch,
        "prompt": 640,
        "new_tokens": 33,
        "first_token_ms": spread(40 * batch / half),
        "per_token_ms": spread((4 + batch) / half),
        "whole_ms": spread((40 * batch + 32 * (4 + batch)) / half),
        "tokens_per_second": 200.0 * half,
        "speedup": float(half),
        "kv_bytes": 2**28 * batch // half,
        "peak_bytes": 2**34,
        "bandwidth_share": 0.8,
        "matrix_share": 0.5,
        **changes,
    }


def bench(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    shape = {"text": vars(SHAPE.text), "vision": vars(SHAPE.vision)}
    return {
        "schema": "dyrate.bench",
        "version": 1,
        "command": "dyrate bench --shape llava-1.5-7b",
        "model": "llava-1.5-7b",
        "weights": "random",
        "replayed": "predictors/testbed/testbed-s/lambda-2",
        "dtype": "bfloat16",
        "device": "Some GPU",
        "threads": 8,
        "seed": 0,
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.11.0"},
        "shape": shape,
        "limits": {"bytes_per_second": 4e12, "flops_per_second": 8e14},
        "rows": rows,
        **changes,
    }


ROWS = [
    row(method, batch=batch, engine=engine)
    for batch in (1, 32)
    for method, engine in (
        (None, "transformers"), (NONE, "transformers"), (NONE, "graph"), (FASTV, "transformers"),
        (FASTV, "graph"), (REPLAY, "graph"),
    )
]  # fmt: skip
HARNESS = {
    **{key: bench([])[key] for key in ("version", "command", "model", "weights", "dtype", "device")},
    "commit": None,
    "schema": "dyrate.bench_harness",
    "versions": {},
    "batch_size": 128,
    "new_tokens": 64,
    "rows": [
        {
            "name": name, "samples": 16, "seconds": [2.0, 3.0], "tokens": 99, "captions_per_second": rate,
            "speedup": rate,
        }
        for name, rate in (("llava_hf", 1.0), ("Unpruned", 27.5))
    ],
}  # fmt: skip


def written(*documents: Any) -> Documents:
    """The documents, in the folder that the report reads below the working one."""
    FOLDER.mkdir(parents=True)
    for i, document in enumerate(documents):
        (FOLDER / f"{i}.json").write_text(json.dumps(document))
    return read()
