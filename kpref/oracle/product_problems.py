"""Problems whose first step shows the arithmetic of a product alone, in each entry of the state.

Of a product whose operands r are known and whose results are seen (`kpref.oracle.product_sites`). A row of W holds a
few numbers whose sum loses all but a small part,

    sums        2^m r_p + r_r - 2^m r_q      with r_p = r_q = 1, r_r = 2^-d
    weights     2^m (1 + 2^-j) r_p - 2^m r_q
    states      2^m r_s - 2^m r_q            with r_s = 1 + 2^-j
    results     2^m r_p + r_r                with -2^m from elsewhere, which is added to the result

so that the current is 2^-d, or 2^(m - j), as long as a number of j = m + d bits, or of j, is kept, and another one, as
a rule zero, if it is not. No rounding elsewhere is that large: each entry of the state answers yes or no.

Where a function stands before the product, ``r = phi(z)``, the ones are values at saturation, which no arithmetic
misses, or which at least cancel; 2^-d need not be exact, as half of it would do. There is no 1 + 2^-j then, or none
that the function's own error leaves as it is: states are not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kpref._types import Array
from kpref.oracle.product_sites import Site
from kpref.oracle.profile_problems import LinearWay

__all__ = ["Bits", "argument_problem", "way_through"]

#: Largest power of two in a row of W: within the range of float16.
_LARGEST_POWER = 15


def argument_problem(site: Site, generator: np.random.Generator) -> tuple[dict[str, Array], Array, Array]:
    """Parameters, an input (n_in,) and states (B, H): results are numbers of eight bits from 2^-10 to 16.

    Of the first rows, one for each operand.
    """
    trials, count = site.layout.trials, min(site.rows, site.width)
    scales = 2.0 ** generator.integers(-3, 2, size=count) * generator.choice([-1.0, 1.0], count)
    shape = trials, site.width
    sizes = generator.integers(128, 256, size=shape) / 128.0 * 2.0 ** generator.integers(-7, 3, size=shape)
    parameters, z0 = site.with_operands(_diagonal(site, scales), sizes * generator.choice([-1.0, 1.0], shape))
    return parameters, np.eye(1, site.layout.model.n_inputs)[0], z0


def way_through(site: Site) -> LinearWay:
    """The way of tiny operands through the identity and what stands behind the product, such as tanh."""
    count = min(site.rows, site.width)
    parameters, z = site.with_operands(_diagonal(site, np.ones(count)), np.ones((1, site.width)))
    x = np.eye(1, site.layout.model.n_inputs)[0]
    return LinearWay(parameters, x, 0 * x, z[0], site.columns[:count], 1.0)


def _diagonal(site: Site, values: Array) -> dict[str, Array]:
    rows = np.zeros((site.rows, site.width))
    np.fill_diagonal(rows, values / site.whole)
    return site.with_rows(site.parameters, rows)


@dataclass(frozen=True, eq=False)
class Bits:
    """A problem of products: what is asked of each trial and row, and what the answer is if bits are lost."""

    parameters: Mapping[str, Array]
    z0: Array
    lost_parameters: Mapping[str, Array]
    lost_z0: Array
    kinds: list[str]  # of each row
    bits: Array  # (B, rows): how many bits are to be kept; 0 where nothing is asked

    @staticmethod
    def make(site: Site, wanted: Mapping[str, list[int]], generator: np.random.Generator) -> Bits:
        """Rows for the numbers of bits that are wanted of each kind, what is needed most first."""
        chosen, targets = site.sides(generator)
        # Whole numbers stand at both ends, so that there is one on either side of each small one.
        inner, finest = generator.permutation(chosen[1:-1]), len(chosen) // 4 if site.shows_states else 0
        fine, small, rest = np.split(inner, [finest, max(finest + 1, len(chosen) // 2)])
        whole = np.concatenate([chosen[[0, -1]], rest])
        kinds = [kind for kind in wanted if wanted[kind]]
        trials = site.layout.trials
        # How small the last part of a number is, by trials; the other bits of its length are in the row of W.
        tails = [_tail(wanted[kind][0]) for kind in kinds if kind in ("sums", "results")] or [0]
        turn = int(generator.integers(len(tails)))
        own = np.arange(trials) if site.by_trial else np.zeros(trials, dtype=int)
        last = np.array([tails[(trial + turn) % len(tails)] for trial in own])
        fines = np.resize(wanted.get("states") or [1], trials)[own]
        operands = np.zeros((trials, site.width))
        operands[:, whole] = 1.0
        operands[:, small] = 2.0 ** -last[:, None].astype(float)
        lost_operands = operands.copy()
        lost_operands[:, fine], operands[:, fine] = 1.0, 1.0 + 2.0 ** -fines[:, None].astype(float)
        rows = np.zeros((2, site.rows, site.width))  # as they are, and as they are if bits are lost
        less = np.zeros(site.rows)
        bits, named = np.zeros((trials, site.rows), dtype=int), [""] * site.rows
        seen = dict.fromkeys(kinds, 0)
        for index, unit in enumerate(targets):
            kind = named[unit] = kinds[index % len(kinds)]
            p, q = generator.choice(whole, size=2, replace=False)
            r = generator.choice(small)
            if seen[kind] % 2 == 0:  # then no sum from either end cancels the large ones before it has met the small
                p, q = generator.permutation([generator.choice(whole[whole < r]), generator.choice(whole[whole > r])])
            length = _next_length(kind, wanted[kind], seen)
            if kind in ("sums", "results"):
                tail = _tail(wanted[kind][0])
                power = 2.0 ** (length - tail)
                rows[:, unit, p], rows[0, unit, r] = power, 1.0
                bits[:, unit] = length - tail + last
            elif kind == "states":
                power = 2.0**_LARGEST_POWER
                rows[:, unit, generator.choice(fine)] = power
                bits[:, unit] = fines
            else:
                power = 2.0**_LARGEST_POWER
                rows[:, unit, p] = power * (1 + 2.0**-length), power
                bits[:, unit] = length
            if kind == "results" and site.added is not None:
                less[unit] = power * site.scale * site.whole
            else:
                rows[:, unit, q] = -power
        base = _lessened(site, less)
        made = (
            site.with_operands(site.with_rows(base, site.scale * each), values)
            for each, values in zip(rows, (operands, lost_operands), strict=True)
        )
        return Bits(*next(made), *next(made), named, bits)


def _next_length(kind: str, lengths: list[int], seen: dict[str, int]) -> int:
    if kind in ("sums", "results"):
        tail = _tail(lengths[0])
        lengths = [length for length in lengths if 0 < length - tail <= _LARGEST_POWER]
    seen[kind] += 1
    return lengths[(seen[kind] - 1) % len(lengths)]


def _lessened(site: Site, less: Array) -> dict[str, Array]:
    """Parameters with what is added to the results of rows made smaller."""
    parameters = {name: value.copy() for name, value in site.parameters.items()}
    for (name, place), value in zip(site.added or (), less, strict=False):
        parameters[name][place] -= value
    return parameters


def _tail(length: int) -> int:
    """How many of the bits of a length the last part of a number is shifted by, the row holding the others."""
    return max(0, length - _LARGEST_POWER + 2)
