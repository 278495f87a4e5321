"""The sentences on results."""

from pathlib import Path

from dyrate.words import sentences

say = sentences(Path(__file__).parent)
