"""Time and memory of generation, measured: what FLOPs and token counts do not say."""
