"""Leading eigenpairs and singular triplets of a matrix known by its products: a Lanczos process that takes any start.

The process keeps an orthonormal basis V, its image A V and ``T = V^T A V``. The eigenpairs (theta, s) of T give Ritz
pairs (theta, V s), and the residual ``r = A V s - theta V s`` of the first pair that has not converged, which is
orthogonal to V, becomes the next vector of the basis. From one starting vector all residuals are parallel, and this is
the Lanczos process with full orthogonalisation and thick restarts (Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000).
From several, it is the method of Davidson without a preconditioner (Stathopoulos and Saad, Electron. Trans. Numer.
Anal. 7, 1998): approximate eigenvectors of a similar matrix are taken as they are, and improved one after another.

For singular triplets, ``B V = U R`` with U orthonormal too and R a small triangular matrix, whose singular triplets
(sigma, p, s) give ``B V s = sigma U p``; the residual is ``r = B^T U p - sigma V s``. From one starting vector this is
the bidiagonalisation of Golub, Kahan and Lanczos with thick restarts (Baglama and Reichel, SIAM J. Sci. Comput. 27,
2005). No product ``B^T B`` is formed, and small singular values are as accurate as large ones, in absolute terms.

A Krylov space holds one vector of each eigenspace, so that copies of a multiple eigenvalue would be missed. When all
pairs have converged, a chain is therefore grown from a random vector orthogonal to V, and belongs to the basis from
then on. Let a missed unit eigenvector, orthogonal to V, of an eigenvalue above ``lambda_k`` have the component c in the
random one. The monic polynomial p whose roots are the Ritz values of a chain of q steps has the smallest norm in the
measure of the chain, the product ``beta_1 ... beta_q`` of its couplings, so that

    |c| <= beta_1 ... beta_q / p(lambda_k),

while the component along a given axis of a random direction of R^n is below ``delta / sqrt(n)`` with a probability
below delta only. The chain ends when a missed vector would have to be as unlikely as that, or after `_CHAIN` steps, or
when its Ritz values exceed lambda_k and the search resumes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kpref._types import Array
from kpref.spectra.bases import Search

__all__ = ["NoConvergence", "blend", "iterate"]

#: Most products, for each pair and for ten more.
_MAX_PRODUCTS = 200
#: Most steps of a chain, and the probability delta that it overlooks an eigenvector.
_CHAIN = 20
_MISS = 1e-2


class NoConvergence(RuntimeError):
    """An iteration stopped before all pairs had converged.

    Attributes
    ----------
    partial : Eigen or Singular
        What it had by then; its `converged` says which pairs are good.
    """

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message)
        self.partial = partial


def blend(vectors: Array) -> Array:
    """One starting vector (1, n) from several (j, n): the sum of their directions.

    A Krylov space from it reaches all of them with fewer products than one that begins with each.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    return np.asarray((vectors[lengths > 0] / lengths[lengths > 0, None]).sum(axis=0, keepdims=True))


def iterate(
    search: Search, start: Array | None, block: int = 1, copies: bool = True
) -> tuple[tuple[Array, ...], Array]:
    """Let a search run until its k leading pairs have converged and nothing seems to be missed.

    `start`: shape (j, n); starting vectors of any length, at least one; None for random ones. `block`: vectors that a
    step adds. `copies`: whether to look for missed copies of the leading values.
    Returns ``search.pairs()`` when they had converged, or in the end, and which have converged, shape (k,): all, unless
    there were too many products.
    """
    search.grow([search.random() for _ in range(block)] if start is None else list(start[: search.width]))
    done, most = 0, _MAX_PRODUCTS * (search.k + 10)
    while search.used < search.size and search.n_products < most:
        done, fresh = _unconverged(search, done, block)
        if not fresh:
            done, fresh = _unconverged(search, 0, block)  # later vectors may have moved what had converged
        if fresh:
            search.grow(fresh)
            if search.stalled:
                search.sharpen(0)
        elif search.used < search.k:  # an invariant space, too small
            search.grow([search.random()])
        else:
            pairs = search.pairs()
            if not copies or _nothing_missed(search):
                return pairs, np.ones(search.k, bool)
    complete, limit = search.used == search.size, search.threshold
    good = [i < search.used and bool(search.error(i, search.residual(i)) <= limit) for i in range(search.k)]
    return search.pairs(), np.array(good) | complete


def _unconverged(search: Search, first: int, block: int) -> tuple[int, list[Array]]:
    """Residuals of the first pairs from `first` on that have not converged, `block` at most, and where they begin."""
    wanted, limit = min(search.k, search.used), search.threshold
    begin, fresh = wanted, []
    for index in range(first, wanted):
        residual = search.residual(index)
        if search.error(index, residual) > limit:
            begin = min(begin, index)
            fresh.append(residual)
        if len(fresh) == block:
            break
    return begin, fresh


def _nothing_missed(search: Search) -> bool:
    """Grow a chain from a random vector; whether it leaves the leading values as they are. See the module's head."""
    steps = min(_CHAIN, search.size - search.used)
    if search.used + steps > search.width:
        search.restart(max(search.k, search.width - steps))
        steps = search.width - search.used
    first, bound = search.used, search.values[: search.k] + 2 * search.threshold
    level, likely, couplings = search.values[search.k - 1] ** search.power, np.log(_MISS / np.sqrt(search.size)), 0.0
    search.grow([search.random()])
    for _ in range(1, steps):
        length = search.grow([search.image()])
        if length == 0.0 or (search.values[: search.k] > bound).any():
            break
        couplings += np.log(length)
        distances = level - np.linalg.eigvalsh(search.projected(first)[:-1, :-1])
        if distances[-1] > 0 and couplings - np.log(distances).sum() < likely:
            break
    if (search.values[: search.k] <= bound).all():
        return True
    if not search.permitted(1.0):  # what was thought to have no share in the wanted pairs has one
        search.sharpen(first)
    return False
