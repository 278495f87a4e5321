"""All that is looked at, in order."""

from collections.abc import Sequence
from typing import Any

from dyrate.errors import DyrateError
from dyrate.preflight import here, hub
from dyrate.preflight.findings import Finding
from dyrate.study import Study, read_config
from dyrate.study.fit import check_jobs


def read_study(paths: Sequence[str]) -> Study:
    """Read a study of config files, of which later ones win, key by key, as Snakemake merges them."""
    config: dict[str, Any] = {}
    for path in paths:
        _merge(config, read_config(path))
    return Study.of(config, " ".join(paths))


def findings(study: Study, gibibytes: float | None, elsewhere: bool = False) -> list[Finding]:
    """What a run of the study would meet here; `gibibytes` of a GPU that is `elsewhere`."""
    looked = hub.look(study)
    coming, rows = (sum(getattr(one, key) for one in looked) for key in ("coming", "data"))
    return [
        *here.packages(),
        *here.quantization(study),
        *here.java(study),
        *_jobs(study),
        *here.gpu(study, gibibytes, elsewhere),
        *here.training(study),
        *hub.access(study),
        *(one.finding for one in looked),
        *here.space(study, coming, rows, known=all(one.known for one in looked)),
    ]


def _jobs(study: Study) -> list[Finding]:
    """Whether methods, predictors and adapters fit the models, as Snakemake would find out."""
    try:
        check_jobs(study)
    except DyrateError as error:
        return [Finding("fails", "study", str(error), "change the config")]
    return [Finding("ok", "study", f"{len(study.jobs)} evaluations of {len(study.models)} models")]


def _merge(config: dict[str, Any], later: dict[str, Any]) -> None:
    for key, value in later.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value
