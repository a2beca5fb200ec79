"""First-order bounds on the rounding errors of the operators, from the arithmetic that they do (Higham, chapter 3).

A sum of k products, in any order and with or without fused operations, is off by at most gamma_k times the sum of the
absolute products, gamma_k = k u / (1 - k u), u the unit roundoff. Here that bound is carried through sweeps in time:
a rounding error at one step is a forcing of that step, so what it does later is P of it.
"""

import math
from dataclasses import replace

import numpy as np

from kpref.kernels import reference


def gamma(count, dtype=np.float64):
    unit = float(np.finfo(dtype).eps) / 2
    return count * unit / (1 - count * unit)


def roundings(form):
    """The most roundings that one entry of one factor of an operator goes through.

    P and its kin: the products on the way of a state, as long as their weight read either way, an operation each, the
    sum. J: the products of variables, and in one sweep with P those of states. J^T: one product for each of the B T
    rows, and a factor. The measure adds two, the second order of all this less than one.
    """
    trials, steps, operations = form.n_trials, form.n_steps, form.program.operations
    products = [op for op in operations if op.kind == "product"]
    of_states = [form.weights[op.name].shape for op in products if op.source is not None]
    of_variables = [form.weights[op.name].shape for op in products if op.variable is not None]
    sweep = sum(max(shape) for shape in of_states) + len(operations) + 4
    product = sum(columns for _, columns in of_states + of_variables) + len(operations) + 1
    return max(sweep, product, trials * steps + 1) + 3


def absolute(form):
    """The linearisation with the absolute values of all numbers: it bounds every intermediate sum."""
    return _changed(form, lambda array: np.abs(array.astype(np.float64)))


def in_double(form):
    """The same linearisation, to the last bit, in float64."""
    return _changed(form, lambda array: array.astype(np.float64))


def _changed(form, change):
    arrays = {name: change(getattr(form, name)) for name in ("numbers", "states", "variables")}
    return replace(form, **arrays, weights={name: change(weight) for name, weight in form.weights.items()})


def _enter(form, x):
    forcing = np.zeros((len(x), form.n_trials, form.n_steps, form.n_states))
    forcing[:, :, 0] = reference.jacobian(form, 0, x)
    return forcing


#: The factors that the operators are products of, each with its transpose.
FORWARD = {
    "P": (reference.tangent, reference.adjoint),
    "P^-1": (reference.inverse, reference.inverse_transpose),
    "J": (reference.parameter_product, reference.parameter_transpose),
    "D": (
        lambda form, x: reference.tangent(form, reference.parameter_product(form, x)),
        lambda form, g: reference.parameter_transpose(form, reference.adjoint(form, g)),
    ),
    "E": (_enter, lambda form, g: reference.jacobian_transpose(form, 0, g[:, :, 0])),
}
FACTORS = FORWARD | {f"{name}^T": (transpose, forward) for name, (forward, transpose) in FORWARD.items()}

#: Factors of each operator of a flow, first applied first, between the measure of its two sides.
CHAINS = {
    "P": ("P",),
    "P_inverse": ("P^-1",),
    "J": ("J",),
    "D_z0": ("E", "P"),
}


def local_error(name, form, x, y):
    """What one rounding of every operation in ``y = F x`` amounts to: an error of y, or a forcing of its recursion."""
    bound = absolute(form)
    if name in ("P", "P^T"):  # each step computes A y[n-1] + x[n]; the error is a forcing of the recursion
        invert = reference.inverse if name == "P" else reference.inverse_transpose
        return 2 * np.abs(y) - invert(bound, np.abs(y))
    if name in ("P^-1", "P^-1^T"):
        return 2 * np.abs(x) - FACTORS[name][0](bound, np.abs(x))
    return FACTORS[name][0](bound, np.abs(x))


def chain_error(form, names, x, w):
    """Bound on the rounding error of ``w . (F_k ... F_1 x)`` over gamma, to first order; one tensor each."""
    values, weights = [x[None]], [w[None]]
    for name in names:
        values.append(FACTORS[name][0](form, values[-1]))
    for name in reversed(names):
        weights.insert(0, FACTORS[name][1](form, weights[0]))
    total = float(np.vdot(np.abs(w), np.abs(values[-1])) + np.vdot(np.abs(weights[0]), np.abs(x)))
    for index, name in enumerate(names):
        error = local_error(name, form, values[index], values[index + 1])
        # An error inside a recursion is a forcing: it acts through the transposed operator, as the input does.
        weight = weights[index] if name in ("P", "P^T") else weights[index + 1]
        total += float(np.vdot(np.abs(weight), error))
    return total


def transposed(names):
    """Factors of the transpose."""
    swap = {name: f"{name}^T" for name in FORWARD} | {f"{name}^T": name for name in FORWARD}
    return tuple(swap[name] for name in reversed(names))


def dot(p, q):
    """``sum p q``, rounded once: the sum adds no error of its own to a dot test."""
    return math.fsum((np.ravel(p) * np.ravel(q)).tolist())


def entry_error(name, form, x, y):
    """Bound on the rounding error of each entry of ``y = F x`` over gamma, for a batch x."""
    if name in ("D", "D^T"):
        first, second = ("J", "P") if name == "D" else ("P^T", "J^T")
        between = FACTORS[first][0](form, x)
        carried = FACTORS[second][0](absolute(form), entry_error(first, form, x, between))
        return carried + entry_error(second, form, between, y)
    error = local_error(name, form, x, y)
    return FACTORS[name][0](absolute(form), error) if name in ("P", "P^T") else error
