"""Fixed points of networks and vector fields: where the dynamics rest, or almost do, and what they are like there."""

from kpref.equilibria.points import FixedPoints
from kpref.equilibria.search import fixed_points

__all__ = ["FixedPoints", "fixed_points"]
