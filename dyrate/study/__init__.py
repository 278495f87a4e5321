"""A study: its config file read and checked, its jobs listed, and where each result stands.

Torch-free, so that Snakemake parses in a second; how a job is evaluated is `dyrate.evaluation`'s business,
and how a predictor is trained that of `dyrate train-predictor`.
"""

from dyrate.study.config import StudyError, read_config
from dyrate.study.entries import Method, StudyJob, StudyPredictor
from dyrate.study.model import Model
from dyrate.study.study import Study

__all__ = ["Method", "Model", "Study", "StudyError", "StudyJob", "StudyPredictor", "read_config"]
