"""The grid: every two choices meet, sizes where kernels break are among them, and names stay what they are."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.models.nonlinearity import NONLINEARITIES
from kpref.oracle import flow_backend, verify
from kpref.oracle.grid import MEASURES, PROBLEMS, check_names, choices
from kpref.oracle.pairwise import covering, pairs
from kpref.oracle.problem import MODELS, describe, rebuild
from tests.strategies import examples


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5), forbidden=st.integers(0, 2**31), banned=st.integers(0, 4)
)
@examples(30)
def test_a_covering_set_holds_every_pair_that_some_case_has(sizes, forbidden, banned):
    """The truth is every combination of levels, tried one by one."""
    factors = {str(number): tuple(range(size)) for number, size in enumerate(sizes)}
    rng = np.random.default_rng(forbidden)
    every = list(pairs_of(factors))
    excluded = {every[i] for i in rng.integers(len(every), size=banned)}

    def allowed(case):
        return not excluded & set(combinations(sorted(case.items()), 2))

    every_case = (dict(zip(factors, levels, strict=True)) for levels in product(*factors.values()))
    whole = [case for case in every_case if allowed(case)]
    possible = {pair for case in whole for pair in pairs(case)}
    cases = covering(factors, allowed)
    assert {pair for case in cases for pair in pairs(case)} == possible
    assert all(case in whole for case in cases)
    assert len(cases) <= max(len(possible), 1)
    assert cases == covering(factors, allowed)


def pairs_of(factors):
    for one, other in combinations(factors, 2):
        yield from (((one, a), (other, b)) for a in factors[one] for b in factors[other])


def test_as_few_cases_as_the_two_largest_factors_need_at_least():
    cases = covering({"a": range(4), "b": range(4), "c": range(2), "d": range(2)})
    assert 16 <= len(cases) <= 20


def test_names_are_those_of_their_problems_and_can_be_selected():
    assert len(PROBLEMS) < 29 * len(MODELS)  # a dozen special ones each, and pairs of options
    for name, problem in PROBLEMS.items():
        assert name == problem.name
        assert name.startswith(f"{problem.model}-")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    # Numbers follow from names: these must not change.
    assert {"gru-plain", "rnn-chaotic", "lstm-weights", "low-rank-one-of-all", "rnn-exact"} <= set(PROBLEMS)


@pytest.mark.parametrize("model", MODELS)
def test_every_choice_of_a_network_occurs_with_every_size(model):
    own = [problem for problem in PROBLEMS.values() if problem.model == model]
    for name, levels in choices(model).items():
        for level in levels:
            assert level is None or any(problem.options.get(name) == level for problem in own)
    for field, levels in {
        "measure": MEASURES, "trainable": ("all", "half", "last"), "zero_start": (False, True), "trials": (1, 2, 3),
        "steps": (1, 2, 32, 33, 64, 65, 128, 129, 256), "states": (1, 2, 32, 33, 64, 65),
    }.items():  # fmt: skip
        assert set(levels) <= {getattr(problem, field) for problem in own}
    assert {True, False} <= {problem.options.get("bias") for problem in own}


def test_sizes_and_nonlinearities_where_kernels_go_wrong():
    used = {problem.options.get("nonlinearity") for problem in PROBLEMS.values()}
    assert set(NONLINEARITIES) <= used
    assert {128, 129, 256} <= {problem.states for problem in PROBLEMS.values()}
    for model in MODELS:
        flow = PROBLEMS[f"{model}-large"].build()
        assert flow.states.size > 2**16


def test_measures_have_the_zeros_that_they_are_named_after():
    rng = np.random.default_rng(0)
    interior, trailing = (MEASURES[kind](rng, (4, 12)) for kind in ("interior", "trailing"))
    assert not interior[:, 3:6].any()
    assert interior[:, :3].all()
    assert interior[:, 6:].all()
    exists = trailing > 0
    assert exists[:, 0].all()
    assert not exists.all()
    assert not (exists[:, 1:] & ~exists[:, :-1]).any()


@pytest.mark.parametrize("name", [name for name in PROBLEMS if "trained" in name or "constrained" in name][:2])
def test_problems_with_options_pass_and_have_the_checks_that_are_foretold(name):
    flow = PROBLEMS[name].build()
    report = verify(flow_backend(flow), flow)
    assert report.passed, str(report)
    assert {check.identifier for check in report.checks} == set(check_names(PROBLEMS[name]))


def test_networks_with_masks_can_be_handed_to_another_process():
    name = next(name for name, problem in PROBLEMS.items() if problem.options.get("constrained"))
    flow = PROBLEMS[name].build()
    twin = rebuild(*describe(flow))
    np.testing.assert_array_equal(twin.states, flow.states)
    np.testing.assert_array_equal(twin.model.mask, flow.model.mask)
    np.testing.assert_array_equal(twin.model.dale, flow.model.dale)


class Sized:
    """Operators that are wrong beyond a size, as kernels are whose blocks, tiles or indices end there."""

    dtype = "float64"

    def __init__(self, flow):
        self.flow, self.states = flow, flow.states


class Elements(Sized):
    def J_T(self, g):
        return np.array(self.flow.J.T(g)) * (1000.0 if g.size > 2**15 else 1.0)


class Units(Sized):
    def P(self, q):
        y = np.array(self.flow.P(q))
        y[..., 64:] = 0
        return y


class Steps(Sized):
    def P(self, q):
        y = np.array(self.flow.P(q))
        y[:, 128:] = 0
        return y


@pytest.mark.parametrize(
    "kind, least",
    [
        (Elements, lambda p: p.trials * p.steps * p.states > 2**15),
        (Units, lambda p: p.states > 64),
        (Steps, lambda p: p.steps > 128),
    ],
)
def test_a_kernel_that_is_wrong_beyond_a_size_is_caught(kind, least):
    """On the cheapest problem of the GRU that is large enough."""
    large = [p for p in PROBLEMS.values() if p.model == "gru" and least(p)]
    assert large
    problem = min(large, key=lambda p: p.trials * p.steps * p.states**2)
    flow = problem.build()
    assert not verify(kind(flow), flow).passed
