"""Bernoulli's numbers, as series of hyperbolic functions have them; known to compiled code and to its plain twin."""

__all__ = ["BERNOULLI"]

#: B_2k / (2 k)! for k = 1, 2, ...: what is left out of a series in powers of a is below 1e-17 for |a| < 1.
BERNOULLI = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
    -3617 / 10670622842880000, 43867 / 5109094217170944000, -174611 / 802857662698291200000,
)  # fmt: skip
