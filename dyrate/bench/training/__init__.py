"""Training a predictor, measured: memory, seconds per step, and whether gradients arrive."""
