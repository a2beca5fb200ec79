"""A number with how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A number, exact or estimated.

    Attributes
    ----------
    value : float
    standard_error : float
        Standard deviation of the estimate; zero for an exact value.
    n_products : int
        Products with an operator that were needed, transposes and factors counted one each.
    method : str
        Such as ``"exact"`` or ``"XTrace"``.
    """

    value: float
    standard_error: float
    n_products: int
    method: str

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error."""
        return self.standard_error == 0.0

    def __str__(self) -> str:
        if self.exact:
            return f"{self.value:.6g} ({self.method})"
        return f"{self.value:.6g} +- {self.standard_error:.2g} ({self.method}, {self.n_products} products)"
