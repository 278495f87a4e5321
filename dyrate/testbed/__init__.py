"""The embedded study: a synthetic world, its benchmarks, and the models trained on it."""
