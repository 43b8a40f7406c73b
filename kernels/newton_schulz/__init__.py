"""Newton-Schulz orthogonalisation: the one copy in the project."""

from everview.kernels.newton_schulz.reference import COEFFICIENTS, newton_schulz

__all__ = ["COEFFICIENTS", "newton_schulz"]
