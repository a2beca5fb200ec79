r"""What the first moments of a measure say about its tail: the inequalities of Chebyshev, Markov and Stieltjes.

A Lanczos process of m steps from g knows the measure ``mu = sum_j (g.q_j)^2 delta(lambda_j)`` of g by the tridiagonal
matrix T of its alphas and betas, which is to say by 2 m + 1 moments. Among all measures that share them, those that put
most and least above x are a quadrature rule with a node at x, and differ by the weight w_x of that node alone:

    sum of the weights of nodes > x   <=   mu((x, oo))   <=   the same + w_x.

The rule has m + 1 nodes, the eigenvalues of T with one row more, whose last diagonal entry ``x + beta^2 c(x)``,
``c(x) = e_m^T (T - x)^-1 e_m``, makes x one of them (Golub, SIAM Review 15, 1973); its weights are squares of the first
components of the eigenvectors. Where it is known that mu has nothing below zero and the rule has, a better one has a
node at zero too, and does without the last moment: ``beta^2 = x / (c(0) - c(x))``, the diagonal entry being
``beta^2 c(0)`` (Krein and Nudelman, *The Markov Moment Problem*, chapter V: what the last moment is larger by, a mass
at infinity accounts for).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh_tridiagonal

from kpref._types import Array

__all__ = ["tail_bounds"]

#: Where a node at infinity is put: far enough for its weight to vanish, near enough for the eigenvalues to be found.
_FAR = 1e30


def tail_bounds(alphas: Array, betas: Array, points: Array, positive: bool) -> tuple[Array, Array]:
    """The least and the most that a measure of mass one may have above each of some points (g,), both of shape (g,).

    `alphas`, `betas`: shape (m,); of the Lanczos process, the last beta being what a further step would start with.
    `positive`: whether the measure has nothing below zero.
    """
    matrix = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
    values, vectors = np.linalg.eigh(matrix)
    shares = vectors[-1] ** 2
    with np.errstate(divide="ignore", over="ignore"):
        at_points = (shares / (values - points[:, None])).sum(axis=1)
    squares = np.full(len(points), betas[-1] ** 2)
    last = points + squares * at_points
    if positive and values[0] > 0:
        at_zero = float((shares / values).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            ours = points / (at_zero - at_points)
        better = (points > 0) & (ours > 0) & (ours < squares)
        squares, last = np.where(better, ours, squares), np.where(better, ours * at_zero, last)
    last = np.clip(np.nan_to_num(last), -_FAR, _FAR)
    least, most = np.empty((2, len(points)))
    for index, x in enumerate(points):
        diagonal, beside = np.append(alphas, last[index]), np.append(betas[:-1], np.sqrt(squares[index]))
        nodes, found = eigh_tridiagonal(diagonal, beside)
        weights, own = found[0] ** 2, int(np.abs(nodes - x).argmin())
        least[index] = weights[own + 1 :].sum()
        most[index] = least[index] + weights[own]
    return least, most
