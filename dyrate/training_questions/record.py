"""What stands beside the training questions that were made here, and tells them from a user's own."""

import json
from pathlib import Path

from dyrate.files import digest

SCHEMA = "dyrate.training_questions"


def record_path(questions: Path) -> Path:
    """Where the record of a file of questions stands."""
    return questions.with_suffix(".made.json")


def images_folder(questions: Path) -> Path:
    """Where its images stand; a rule empties it, so that no user's folder may have this name."""
    return questions.with_suffix(".made")


def is_made(questions: Path) -> bool:
    """Whether a file of questions is the one that its record is of; one that is not there may become so."""
    if not questions.exists():
        return True
    try:
        record = json.loads(record_path(questions).read_text(encoding="utf-8"))
        return bool(record["sha256"] == digest(questions.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return False
