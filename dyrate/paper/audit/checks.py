"""All checks, in the order of the page."""

from dyrate.paper.audit import arithmetic, consistency
from dyrate.paper.audit.finding import Finding

CHECKS = (
    consistency.bold,
    consistency.repeated,
    consistency.exchanged,
    consistency.magnitudes,
    consistency.resolutions,
    consistency.scales,
    arithmetic.percentages_of_methods,
    arithmetic.same_for_different_models,
    arithmetic.dyrates_percentage,
    arithmetic.strategies,
)


def audit() -> tuple[Finding, ...]:
    """Run every check on the printed tables."""
    return tuple(finding for check in CHECKS for finding in check())
