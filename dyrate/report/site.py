"""What a report consists of: its pages, by file and in the order of its index, and the figures' folder."""

from collections.abc import Mapping
from typing import Final

PAGES: Final[Mapping[str, str]] = {
    "index.html": "Overview",
    "results.html": "Results",
    "attention.html": "Attention",
    "budget.html": "Equal budget",
    "cost.html": "Cost and speed",
    "audit.html": "Audit",
    "samples.html": "Samples",
    "provenance.html": "Provenance",
}
INDEX = next(iter(PAGES))
FIGURES = "figures"
"""Beside the pages: the folder of the figures' files."""
