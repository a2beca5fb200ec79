"""Defects as they happen, each a small change to a correct backend: what the oracle must catch.

A mutant is planted in an `EmulatedBackend`, whose products (K, NTK, gradient) are made of its factors, so that a defect
of a factor is also one of them. Its name says where it is planted; it lists the classes of defect that a guess may
put it in (the word before the colon of `kpref.oracle.verdict.Check.guess`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.emulation import EmulatedBackend
from apparatus.further import FURTHER
from apparatus.mutant import Mutant
from apparatus.planting import (
    all_gates,
    at_states,
    averaged,
    block_transposed,
    by_columns,
    channel,
    channels,
    computed_coarser,
    drive,
    exchanged,
    factors_exchanged,
    first_gate,
    forced_early,
    gates_exchanged,
    gates_of_all,
    instead,
    interrupted,
    last_gate,
    metric_instead,
    no_bias,
    of_first_step,
    of_first_trial,
    on_answer,
    on_argument,
    one_entry,
    over_form,
    own_step,
    part_set,
    per_trial,
    points,
    rolled,
    run_with,
    shifted,
    slope_of_value,
    states_for_variables,
    transposed,
    truncated,
    variables,
    variant,
    varying,
    weigh,
    weight,
    weights_exchanged,
    with_parameters,
    zero_at_first,
    zeroed,
)
from kpref.oracle.form_defects import direct_channels, slope_channels

__all__ = ["MUTANTS", "Mutant"]

Array = npt.NDArray[Any]


_DECAYING = ("gru", "leaky", "lstm", "low-rank", "stacked-gru")
_NOT_SHORTEST = ("float64", "float32", "tf32")
_TINY = 1 + 1e-5


def _tiny(array: Array) -> Array:
    return _TINY * array


_no_decay = channels(direct_channels, np.zeros_like)


def _complement(array: Array) -> Array:
    return 1.0 - array


#: Short, as it stands on every line below.
_m = Mutant
_linear = variant("nonlinearity left out")
_zero_start = at_states(lambda b: replace(b, z0=np.zeros_like(b.z0)).states)
_before = at_states(lambda b: np.concatenate([b.z0[:, None], b.states[:, :-1]], axis=1))
_previous = run_with(lambda model, z, x, step: model.step(z, x[max(step - 1, 0)]))
_first_trial = run_with(lambda model, z, x, step: model.step(z, 0 * x[step] + x[step][:1]))
_TRAJECTORIES = [
    _m("states: z0 dropped", "the trajectory starts from zero", ("z0 dropped",), _zero_start),
    _m("states: late", "returns the state before each step", ("time shifted by one",), _before),
    _m("states: inputs late", "each step sees the inputs of the one before", ("time shifted by one",), _previous),
    _m("states: no bias", "biases are not added", ("bias missing",), with_parameters(no_bias)),
    _m("states: transposed", "W^T z for W z", ("transpose",), with_parameters(block_transposed)),
    _m(
        "states: gate order",
        "update and reset exchanged",
        ("gate order",),
        with_parameters(gates_of_all),
        ("gru", "lstm"),
    ),
    _m("states: complement", "update gate complemented", ("gate",), variant("complemented"), ("gru",)),
    _m("states: reset first", "reset gate before the product", ("gate",), variant("before the product"), ("gru",)),
    _m(
        "states: linear",
        "the nonlinearity left out",
        ("slope",),
        variant("nonlinearity left out"),
        ("rnn", "leaky", "low-rank"),
    ),
    _m("states: first trial", "all trials see the inputs of the first", ("trials mixed",), _first_trial),
    _m(
        "states: one entry",
        "one entry is wrong",
        ("one entry", "one step"),
        at_states(lambda b: one_entry(b, b.states)),
    ),
    _m(
        "states: factors",
        "left and right vectors exchanged",
        ("parameter order",),
        with_parameters(factors_exchanged),
        ("low-rank",),
    ),
    _m(
        "states: layer below",
        "the second layer does not see the first",
        ("recurrence",),
        with_parameters(lambda model: {"weight_ih_l1": 0 * model.parameters["weight_ih_l1"]}),
        ("stacked-gru",),
    ),
    _m(
        "states: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("states"),
        arithmetics=_NOT_SHORTEST,
    ),
]
_PROPAGATORS = [
    _m("P: negative", "the sign of the answer", ("sign",), on_answer("P", lambda _, y: -y)),
    _m("P: transposed weights", "W^T for W in the step", ("transpose",), over_form("P", transposed)),
    _m("P: adjoint", "P^T for P", ("transpose",), instead("P", lambda b, q: b.P_T(q))),
    _m("P: late", "the answer one step late", ("time shifted by one",), on_answer("P", shifted)),
    _m(
        "P: next coefficients",
        "coefficients of the step after",
        ("time shifted by one",),
        over_form("P", rolled(-1)),
    ),
    _m(
        "P: stale",
        "coefficients of the first step throughout",
        ("stale",),
        over_form("P", channels(varying, of_first_step)),
    ),
    _m(
        "P: no decay",
        "the direct term left out",
        ("decay",),
        over_form("P", _no_decay),
        _DECAYING,
    ),
    _m(
        "P: complement",
        "u and 1 - u exchanged in the direct term",
        ("decay",),
        over_form("P", channels(direct_channels, _complement)),
        _DECAYING,
    ),
    _m(
        "P: no reset path",
        "derivative of the reset gate left out",
        ("gate",),
        over_form("P", channel("layer0_reset_gate", np.zeros_like)),
        ("gru",),
    ),
    _m(
        "P: update sign",
        "n - h for h - n",
        ("gate",),
        over_form("P", channel("layer0_update_gate", np.negative)),
        ("gru",),
    ),
    _m(
        "P: no reset factor",
        "r left out in the candidate's path",
        ("gate",),
        over_form("P", channel("layer0_hidden", np.copy, "layer0_candidate")),
        ("gru",),
    ),
    _m(
        "P: gate order",
        "blocks of the weight exchanged",
        ("gate order",),
        over_form("P", exchanged),
        ("gru",),
    ),
    _m(
        "P: no slope",
        "derivative of the nonlinearity left out",
        ("slope",),
        over_form("P", channels(slope_channels, np.ones_like)),
        ("leaky", "low-rank"),
    ),
    _m(
        "P: no gate",
        "derivative of the nonlinearity left out",
        ("slope",),
        over_form("P", channels(all_gates, np.ones_like)),
        ("rnn",),
    ),
    _m(
        "P: slope of value",
        "derivative taken at the value",
        ("slope",),
        slope_of_value,
        ("rnn",),
    ),
    _m(
        "P: first step lost",
        "the forcing of the first step is not seen",
        ("step missing",),
        on_argument("P", part_set(np.s_[:, 0], 0.0)),
    ),
    _m(
        "P: last step unwritten",
        "the last step of the answer stays zero",
        ("step missing",),
        on_answer("P", part_set(np.s_[:, -1], 0.0)),
    ),
    _m(
        "P: chunk boundary",
        "the state is lost between two chunks of time",
        ("one step",),
        instead("P", interrupted),
    ),
    _m("P: forced early", "the forcing enters before the step", ("composition",), instead("P", forced_early)),
    _m(
        "P: first trial's coefficients",
        "coefficients of the first trial for all",
        ("trials mixed",),
        over_form("P", of_first_trial),
    ),
    _m("P: offset", "a constant is added", ("not linear",), on_answer("P", lambda _, y: y + 0.5)),
    _m(
        "P: last units",
        "the last partial block of units is not written",
        ("last block", "one unit"),
        on_answer("P", part_set(np.s_[:, :, -2:], 0.0)),
    ),
    _m("P: one entry", "one entry is wrong", ("one entry", "one step"), on_answer("P", one_entry)),
    _m(
        "P: one trial",
        "the last trial is not computed",
        ("trial missing", "one trial", "last block"),
        on_answer("P", part_set(-1, 0.0)),
    ),
    _m(
        "P: 1 + 1e-5",
        "a constant in one gate's derivative",
        ("gate",),
        over_form("P", channels(last_gate, _tiny)),
        ("rnn", "leaky", "lstm", "low-rank"),
    ),
    _m(
        "P: update 1 + 1e-5",
        "a constant in the update gate's derivative",
        ("gate",),
        over_form("P", channel("layer0_update_gate", _tiny)),
        ("gru",),
    ),
    _m(
        "P: no forget gate",
        "dc' without what the forget gate does",
        ("gate",),
        over_form("P", channel("layer0_forget_gate", np.zeros_like)),
        ("lstm",),
    ),
    _m(
        "P: no output gate",
        "dh' without what the output gate does",
        ("gate",),
        over_form("P", channel("layer0_output_gate", np.zeros_like)),
        ("lstm",),
    ),
    _m(
        "P: cell not seen",
        "dh' without what the new cell does",
        ("gate",),
        over_form("P", channel("layer0_output", np.zeros_like)),
        ("lstm",),
    ),
    _m(
        "P: layer below",
        "the second layer does not see the first",
        ("recurrence",),
        over_form("P", weight("below1", np.zeros_like)),
        ("stacked-gru",),
    ),
    _m(
        "P: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("P"),
        arithmetics=_NOT_SHORTEST,
    ),
]
_ADJOINTS = [
    _m("P_T: negative", "the sign of the answer", ("sign",), on_answer("P_T", lambda _, y: -y)),
    _m("P_T: not transposed", "W for W^T in the step", ("transpose",), over_form("P_T", transposed)),
    _m("P_T: tangent", "P for P^T", ("transpose",), instead("P_T", lambda b, g: b.P(g))),
    _m(
        "P_T: reversed",
        "the answer still in reversed time",
        ("time reversed",),
        on_answer("P_T", lambda _, y: y[:, ::-1]),
    ),
    _m(
        "P_T: previous coefficients",
        "A[n] for A[n+1]",
        ("time shifted by one",),
        over_form("P_T", rolled(1)),
    ),
    _m(
        "P_T: no decay",
        "the direct term left out",
        ("decay",),
        over_form("P_T", _no_decay),
        _DECAYING,
    ),
    _m(
        "P_T: last step lost",
        "the last step of the argument is not seen",
        ("step missing",),
        on_argument("P_T", part_set(np.s_[:, -1], 0.0)),
    ),
    _m(
        "P_T: trials averaged",
        "the argument is averaged over trials",
        ("trials mixed",),
        on_argument("P_T", averaged),
    ),
    _m(
        "P_T: last trial",
        "the last trial is not computed",
        ("trial missing", "one trial", "last block"),
        on_answer("P_T", part_set(-1, 0.0)),
    ),
    _m(
        "P_T: gate order",
        "blocks of the weight exchanged",
        ("gate order",),
        over_form("P_T", exchanged),
        ("gru",),
    ),
    _m(
        "P_T: early",
        "the answer one step early",
        ("time shifted by one",),
        on_answer("P_T", lambda b, y: shifted(b, y, -1)),
    ),
    _m(
        "P_T: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("P_T"),
        arithmetics=_NOT_SHORTEST,
    ),
]
_INVERSES = [
    _m("P_inverse: P", "P for its inverse", ("inverse",), instead("P_inverse", lambda b, y: b.P(y))),
    _m(
        "P_inverse: own step",
        "A[n] y[n] for A[n] y[n-1]",
        ("time shifted by one", "composition"),
        instead("P_inverse", own_step),
    ),
    _m(
        "P_inverse: plus",
        "the product is added",
        ("sign", "recurrence"),
        instead("P_inverse", lambda b, y: 2 * y - b.P_inverse(y)),
    ),
    _m("P_inverse: transposed", "W^T for W", ("transpose",), over_form("P_inverse", transposed)),
    _m(
        "P_inverse: first step",
        "the first step stays zero",
        ("step missing",),
        on_answer("P_inverse", part_set(np.s_[:, 0], 0.0)),
    ),
    _m(
        "P_inverse: no decay",
        "the direct term left out",
        ("decay",),
        over_form("P_inverse", _no_decay),
        _DECAYING,
    ),
]
_JACOBIANS = [
    _m("J: no bias", "biases have no derivative", ("bias missing", "bias"), over_form("J", drive("bias"))),
    _m(
        "J: no inputs",
        "input weights have no derivative",
        ("inputs missing", "inputs"),
        over_form("J", drive("inputs")),
    ),
    _m("J: order", "the two weights in the other order", ("parameter order",), on_argument("J", weights_exchanged)),
    _m("J: Fortran", "matrices read by columns", ("parameter order",), on_argument("J", by_columns)),
    _m(
        "J: gate order",
        "blocks of reset and update exchanged",
        ("gate order",),
        on_argument("J", gates_exchanged),
        ("gru",),
    ),
    _m(
        "J: z0 dropped",
        "zero multiplies the weight in the first step",
        ("z0 dropped",),
        over_form("J", variables(zero_at_first)),
    ),
    _m(
        "J: next states",
        "states of the step after multiply the weight",
        ("time shifted by one",),
        over_form("J", variables(lambda array: np.roll(array, -1, axis=0))),
    ),
    _m(
        "J: hidden bias",
        "r left out for weight_hh and bias_hh of the candidate",
        ("gate",),
        over_form("J", channel("layer0_hidden", np.copy, "layer0_candidate")),
        ("gru",),
    ),
    _m(
        "J: states",
        "z for phi(z)",
        ("slope",),
        states_for_variables,
        ("leaky",),
    ),
    _m(
        "J: clipped",
        "entries beyond one are clipped",
        ("not linear",),
        on_argument("J", lambda _, theta: np.clip(theta, -1, 1)),
    ),
    _m("J: negative", "the sign of the answer", ("sign",), on_answer("J", lambda _, y: -y)),
    _m(
        "J: 1 + 1e-5",
        "a constant in one gate's derivative",
        ("gate", "factor"),
        over_form("J", channels(first_gate, _tiny)),
    ),
    _m(
        "J: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("J"),
        arithmetics=_NOT_SHORTEST,
    ),
]
_TRANSPOSES = [
    _m(
        "J_T: last chunk",
        "the last steps are not accumulated",
        ("step missing",),
        on_argument("J_T", part_set(np.s_[:, -3:], 0.0)),
    ),
    _m(
        "J_T: last trial",
        "the last trial is not accumulated",
        ("trial missing",),
        on_argument("J_T", part_set(-1, 0.0)),
    ),
    _m("J_T: no bias", "biases stay zero", ("bias missing", "bias"), on_answer("J_T", zeroed("bias"))),
    _m(
        "J_T: one bias",
        "bias_hh stays zero",
        ("bias", "bias missing"),
        on_answer("J_T", zeroed("bias_hh")),
        ("rnn", "gru"),
    ),
    _m(
        "J_T: z0 dropped",
        "zero multiplies in the first step",
        ("z0 dropped",),
        over_form("J_T", variables(zero_at_first)),
    ),
    _m(
        "J_T: order",
        "the two weights in the other order",
        ("parameter order",),
        on_answer("J_T", weights_exchanged),
    ),
    _m("J_T: Fortran", "matrices written by columns", ("parameter order",), on_answer("J_T", by_columns)),
    _m(
        "J_T: gate order",
        "blocks of reset and update exchanged",
        ("gate order",),
        on_answer("J_T", gates_exchanged),
        ("gru",),
    ),
    _m(
        "J_T: mean",
        "averaged over trials",
        ("factor",),
        on_answer("J_T", lambda b, theta: theta / b.space.shape[0]),
    ),
    _m("J_T: one entry", "one entry is wrong", ("one entry",), on_answer("J_T", one_entry)),
    _m("J_T: late", "the argument one step late", ("time shifted by one",), on_argument("J_T", shifted)),
    _m(
        "J_T: update 1 + 1e-5",
        "a constant in one gate's derivative",
        ("gate",),
        over_form("J_T", channel("layer0_update_gate", _tiny)),
        ("gru",),
    ),
    _m(
        "J_T: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("J_T"),
        arithmetics=_NOT_SHORTEST,
    ),
]
_MEASURE = ("measure",)
_KERNELS = [
    _m("K: sum", "sum for mean", _MEASURE, on_answer("K", lambda b, y: points(b) * y)),
    _m("K: twice", "divided twice", _MEASURE, on_answer("K", lambda b, y: y / points(b))),
    _m(
        "K: trials",
        "not divided by the number of trials",
        _MEASURE,
        on_answer("K", lambda b, y: b.space.shape[0] * y),
    ),
    _m("K: weights ignored", "all weights one", _MEASURE, instead("K", lambda b, q: b.J(b.J_T(q))), weighted=True),
    _m(
        "K: weights outside",
        "weights on the answer",
        _MEASURE,
        instead("K", lambda b, q: weigh(b, b.J(b.J_T(q)))),
        weighted=True,
    ),
    _m("K: trials apart", "no sum over trials", ("composition",), instead("K", per_trial)),
    _m("K: absolute", "absolute values of the argument", ("not linear",), on_argument("K", lambda _, q: np.abs(q))),
    _m("K: negative", "the sign of the answer", ("sign",), on_answer("K", lambda _, y: -y)),
    _m("NTK: K", "no propagators", ("composition",), instead("NTK", lambda b, q: b.K(q))),
    _m("NTK: no adjoint", "P K for P K P*", ("composition",), instead("NTK", lambda b, q: b.P(b.K(q)))),
    _m("NTK: no P", "K P* for P K P*", ("composition",), instead("NTK", lambda b, q: b.J(b.gradient(q)))),
    _m("NTK: P K P", "P for P*", ("composition",), instead("NTK", lambda b, q: b.P(b.J(b.J_T(b.P(weigh(b, q))))))),
    _m("NTK: sum", "sum for mean", _MEASURE, on_answer("NTK", lambda b, y: points(b) * y)),
    _m(
        "NTK: weights outside",
        "weights on the answer",
        _MEASURE,
        instead("NTK", lambda b, q: weigh(b, b.P(b.J(b.J_T(b.P_T(q)))))),
        weighted=True,
    ),
    _m("NTK: negative", "the sign of the answer", ("sign",), on_answer("NTK", lambda _, y: -y)),
    _m("NTK: late", "the answer one step late", ("time shifted by one",), on_answer("NTK", shifted)),
    _m(
        "gradient: no adjoint",
        "no backpropagation through time",
        ("composition",),
        instead("gradient", lambda b, e: b.J_T(weigh(b, e))),
    ),
    _m(
        "gradient: truncated",
        "backpropagation stops after three steps",
        ("truncated",),
        instead("gradient", truncated),
    ),
    _m("gradient: sum", "sum for mean", _MEASURE, on_answer("gradient", lambda b, g: points(b) * g)),
    _m("gradient: ascent", "the sign of the answer", ("sign",), on_answer("gradient", lambda _, g: -g)),
    _m(
        "gradient: weights ignored",
        "all weights one",
        _MEASURE,
        instead("gradient", lambda b, e: b.J_T(b.P_T(e))),
        weighted=True,
    ),
    _m(
        "gradient: last trial",
        "the last trial is not seen",
        ("trial missing",),
        on_argument("gradient", part_set(-1, 0.0)),
    ),
]


def _inverse_transpose(b: EmulatedBackend, g: Array) -> Array:
    """``g[n] - A[n+1]^T g[n+1]``."""
    return np.concatenate([g[:, :-1] - _carried_back(b, g, 1), g[:, -1:]], axis=1)


def _carried_back(b: EmulatedBackend, g: Array, of_step: int) -> Array:
    """``A[n + of_step]^T g[n+1]`` for all n but the last."""
    rows = [b.retreat(step + of_step, g[None, :, step + 1])[0] for step in range(g.shape[1] - 1)]
    return np.stack([np.asarray(row) for row in rows], axis=1)


def _start(b: EmulatedBackend, start: Array, first: Array) -> Array:
    return np.asarray(b.P(np.concatenate([first[:, None], np.zeros_like(b.states[:, 1:])], axis=1)))


_FURTHER = [
    _m("P_inverse_T: P_inverse", "not transposed", ("transpose",), instead("P_inverse_T", lambda b, g: b.P_inverse(g))),
    _m("P_inverse_T: P_T", "P^T for its inverse", ("inverse",), instead("P_inverse_T", lambda b, g: b.P_T(g))),
    _m(
        "P_inverse_T: own coefficients",
        "A[n] for A[n+1]",
        ("time shifted by one",),
        instead(
            "P_inverse_T",
            lambda b, g: np.concatenate([g[:, :-1] - _carried_back(b, g, 0), g[:, -1:]], axis=1),
        ),
    ),
    _m(
        "P_inverse_T: plus",
        "the product is added",
        ("sign", "recurrence"),
        instead("P_inverse_T", lambda b, g: 2 * g - _inverse_transpose(b, g)),
    ),
    _m("D: J", "no propagation", ("composition",), instead("D", lambda b, theta: b.J(theta))),
    _m("D: negative", "the sign of the answer", ("sign",), instead("D", lambda b, theta: -b.P(b.J(theta)))),
    _m("D: late", "one step late", ("time shifted by one",), instead("D", lambda b, t: shifted(b, b.P(b.J(t))))),
    _m("D_T: J_T", "no adjoint", ("composition",), instead("D_T", lambda b, g: b.J_T(g))),
    _m("D_T: P", "P for P^T", ("composition",), instead("D_T", lambda b, g: b.J_T(b.P(g)))),
    _m("D_z0: zero", "the initial states are forgotten", ("zero",), instead("D_z0", lambda b, z: 0 * b.states)),
    _m("D_z0: negative", "the sign", ("sign",), instead("D_z0", lambda b, z: -_start(b, z, b.advance(0, z[None])[0]))),
    _m("D_z0_T: zero", "not seen", ("zero",), instead("D_z0_T", lambda b, g: 0 * b.z0)),
    _m(
        "D_z0_T: negative",
        "the sign of the answer",
        ("sign",),
        instead("D_z0_T", lambda b, g: -np.asarray(b.retreat(0, b.P_T(g)[None, :, 0]))[0]),
    ),
    _m("K_T: K", "not transposed", _MEASURE, instead("K_T", lambda b, q: b.K(q)), weighted=True),
    _m("K_T: no measure", "all weights one", _MEASURE, instead("K_T", lambda b, q: b.J(b.J_T(q)))),
    _m("NTK_T: NTK", "not transposed", _MEASURE, instead("NTK_T", lambda b, q: b.NTK(q)), weighted=True),
    _m("NTK_T: K_T", "no propagators", ("composition",), instead("NTK_T", lambda b, q: weigh(b, b.J(b.J_T(q))))),
    _m("gradient_T: D", "no measure", _MEASURE, instead("gradient_T", lambda b, theta: b.P(b.J(theta)))),
    _m("gradient_T: J", "no P", ("composition",), instead("gradient_T", lambda b, theta: weigh(b, b.J(theta)))),
]


def _metric(name: str, description: str, classes: tuple[str, ...], compute: Any, **options: Any) -> Mutant:
    """A mutant of a metric."""
    return Mutant(
        f"metrics: {description}", f"{name}: {description}", classes, metric_instead(name, compute), **options
    )


_METRICS = [
    _metric("trace_K", "Frobenius norm for trace", ("reduction",), lambda b: b.metric("frobenius_K")),
    _metric("trace_K", "trace without the measure", _MEASURE, lambda b: points(b) * b.metric("trace_K")),
    _metric(
        "trace_K", "trace 1 + 1e-5", ("precision lower than declared", "factor"), lambda b: _TINY * b.metric("trace_K")
    ),
    _metric("frobenius_K", "norm squared", ("power",), lambda b: np.square(b.metric("frobenius_K"))),
    _metric("effective_dimension_K", "inverse dimension", ("power",), lambda b: 1 / b.metric("effective_dimension_K")),
    _metric("average_K", "partial trace for average", ("reduction",), lambda b: b.metric("partial_trace_K")),
    _metric("partial_trace_K", "average for partial trace", ("reduction",), lambda b: b.metric("average_K")),
    _metric("average_P", "average transposed", ("transpose",), lambda b: b.metric("average_P").T),
    _metric(
        "average_P",
        "partial trace of P for average",
        ("reduction",),
        lambda b: points(b) * np.eye(len(b.metric("average_P"))),
    ),
    _metric("trace_NTK", "trace of K for the NTK", ("composition",), lambda b: b.metric("trace_K")),
    _metric("frobenius_NTK", "root of the norm", ("power",), lambda b: np.sqrt(b.metric("frobenius_NTK"))),
    _metric(
        "effective_dimension_NTK",
        "dimension of K for the NTK",
        ("composition",),
        lambda b: b.metric("effective_dimension_K"),
    ),
    _metric("average_NTK", "sum for mean", _MEASURE, lambda b: points(b) * b.metric("average_NTK")),
    _metric(
        "average_NTK", "partial trace of the NTK for average", ("reduction",), lambda b: b.metric("partial_trace_NTK")
    ),
    _metric(
        "partial_trace_NTK",
        "off-diagonal dropped",
        ("reduction",),
        lambda b: np.diag(np.diag(b.metric("partial_trace_NTK"))),
    ),
    _metric("alignment_K_NTK", "not normalised", ("reduction",), lambda b: np.vdot(b.gram("K"), b.gram("NTK"))),
    _m(
        "metrics: precision",
        "computed more coarsely than declared",
        ("precision lower than declared",),
        computed_coarser("metric"),
        arithmetics=_NOT_SHORTEST,
    ),
]

#: The mutants by name.
MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant
    for mutant in (
        *_TRAJECTORIES,
        *_PROPAGATORS,
        *_ADJOINTS,
        *_INVERSES,
        *_JACOBIANS,
        *_TRANSPOSES,
        *_KERNELS,
        *_FURTHER,
        *_METRICS,
        *FURTHER,
    )
}
