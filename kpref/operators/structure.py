"""What is known of an operator: self-adjoint, positive, and which indices of its tensors it keeps apart.

**Blocks.** The first axis of a tensor counts trials, the last one columns of the state. An operator keeps trials apart
if what it returns for a trial comes of that trial alone, and units apart if what it returns for the columns of a unit
comes of these alone: it is block-diagonal. Where one of its spaces has a single axis, that of the parameters, entries
of that space belong to trials or units in some way that is not told. Of the parameter Jacobian J it says that no two
units use the same parameter: then ``J J*`` is block-diagonal over units.
"""

from __future__ import annotations

from dataclasses import dataclass

from kpref._reprs import short_repr
from kpref._validate import flag

__all__ = ["BY_TRIAL", "UNKNOWN", "Structure"]


@dataclass(frozen=True)
class Structure:
    """What is known of an operator, in the inner product of its space; False and None: it may be so or not.

    Attributes
    ----------
    self_adjoint : bool
        ``<p, A q> = <A p, q>``.
    positive : bool
        ``<q, A q> >= 0`` as well.
    by_trial : bool
        Block-diagonal over the first axis.
    units : tuple of int, or None
        Block-diagonal over units: the unit of each index of the last axis, all different where no two are coupled.

    Raises
    ------
    ValueError
        If an operator is said to be positive and not self-adjoint.
    """

    self_adjoint: bool = False
    positive: bool = False
    by_trial: bool = False
    units: tuple[int, ...] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("self_adjoint", "positive", "by_trial"):
            flag(name, getattr(self, name))
        if self.positive and not self.self_adjoint:
            raise ValueError("structure must say self-adjoint of an operator that it says is positive")

    @property
    def by_unit(self) -> bool:
        """Whether no two indices of the last axis are coupled."""
        return self.units is not None and len(set(self.units)) == len(self.units)

    def __and__(self, other: Structure) -> Structure:
        """What two operators have in common: of units, the coarser ones where those of the other are single indices."""
        if self.by_unit or other.units == self.units:
            units = other.units
        else:
            units = self.units if other.by_unit else None
        return Structure(
            self.self_adjoint and other.self_adjoint,
            self.positive and other.positive,
            self.by_trial and other.by_trial,
            units,
        )


#: Of an operator of which nothing is known.
UNKNOWN = Structure()
#: Of P, which carries each trial by itself.
BY_TRIAL = Structure(by_trial=True)
