"""Newton-Schulz orthogonalisation: the one copy in the project."""

from everview.kernels.newton_schulz.dispatch import newton_schulz
from everview.kernels.newton_schulz.reference import COEFFICIENTS

__all__ = ["COEFFICIENTS", "newton_schulz"]
