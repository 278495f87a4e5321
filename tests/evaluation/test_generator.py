"""What generates is a matter of speed: the engine's answers, and what is counted, are transformers' own."""

from pathlib import Path
from typing import Any

import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness import ask
from dyrate.evaluation.suite import load_tasks


@pytest.mark.parametrize("method", ["none", {"name": "fastv", "layer": 1, "rate": 0.5}])
@pytest.mark.parametrize("decoding", ["greedy", {"name": "top_p", "seed": 3}])
def test_the_engine_gives_the_answers_of_transformers(
    checkpoint: Path, data: Path, method: Any, decoding: Any
) -> None:
    tasks = load_tasks(select(("gqa", "pope")), "testbed", data, 10)
    found = {}
    for engine in ("auto", "graph"):
        model = DyrateModel(str(checkpoint), method, decoding, batch_size=8, device="cpu", engine=engine)
        answers = [ask(model, loaded) for loaded in tasks]
        found[model.engine] = answers, {name: record.tokens for name, record in model.records.items()}
    assert set(found) == {"transformers", "graph"}
    assert found["graph"] == found["transformers"]
    answers, counted = found["graph"]
    assert [len(each) for each in answers] == [10, 10]
    assert len(counted) == 2


def test_beams_are_transformers(checkpoint: Path) -> None:
    assert DyrateModel(str(checkpoint), device="cpu", decoding="beam-2").engine == "transformers"
    with pytest.raises(DyrateError, match="engine graph has no beams, and decoding beam-2 is a beam search"):
        DyrateModel(str(checkpoint), device="cpu", decoding="beam-2", engine="graph")
    with pytest.raises(DyrateError, match="engine is 'fast'; known: auto, transformers, graph"):
        DyrateModel(str(checkpoint), device="cpu", engine="fast")
