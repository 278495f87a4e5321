"""Where a checkpoint has CLIP's other half: whoever hashes a checkpoint needs the name, and no torch."""

FOLDER = "clip"
"""Of a checkpoint."""
