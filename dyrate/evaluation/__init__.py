"""Evaluation: the lmms-eval adapter, the local tasks, the response log, intervals and the result files."""
