"""What this machine can and can't do for everview, found by trying it."""

from everview.workflows.doctor.checks import CHECKS, Finding, examine

__all__ = ["CHECKS", "Finding", "examine"]
