"""What results look like when they are printed: one line; and in a notebook: a small table."""

import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import kpref
from kpref import Flow
from kpref._reprs import html_table, short_repr
from kpref.differences import taylor_test
from kpref.models import GRU, Rate
from kpref.spectra.blocks import block_eigh
from kpref.training import Objective

TRIALS = kpref.Trials(np.ones((4, 5, 2)), targets=np.ones((4, 5, 1)))


@pytest.fixture(scope="module")
def flow():
    return Flow(GRU.init(2, 3, seed=0), np.random.default_rng(0).normal(size=(4, 5, 2)))


@dataclass
class Result:
    part: Any

    __repr__ = short_repr


@pytest.mark.parametrize(
    "part, shown",
    [
        (1.23456789, "1.23457"),
        (np.float64(1.5), "1.5"),
        (3, "3"),
        (np.int64(3), "3"),
        (None, "None"),
        ("mean", "'mean'"),
        ("x" * 99, "'" + "x" * 56 + "..."),
        (np.array([1.0, 2.5]), "[1, 2.5]"),
        (np.arange(7), "[0, 1, ..., 6] (7)"),
        (np.array([]), "[]"),
        (np.array([True, True]), "all True"),
        (np.array([True, False]), "1 of 2 True"),
        (np.array(["a", "b"]), "<U1 (2,)"),
        (np.zeros((2, 3), dtype=np.float32), "float32 (2, 3)"),
        (np.array(1.0), "float64 ()"),
        ((1, 2, 3), "3 entries"),
        ([1], "1 entry"),
        (kpref.Estimate(2.0, 0.1, 3, "hutchinson"), "2"),
        (slice(3), "slice(None, 3, None)"),
        (np.testing, "<module>"),
        (Result(np.zeros((9, 9))), "Result(part=float64 (9, 9))"),
    ],
)
def test_parts(part, shown):
    assert repr(Result(part)) == f"Result(part={shown})"


def test_results_are_one_line(flow):
    results = [
        kpref.eigh(flow.NTK, 8),
        kpref.svd(flow.P, 2),
        kpref.kernel_spectrum(flow),
        block_eigh(flow.K, 2, axis=2),
        kpref.fixed_points(flow.model, starts=flow),
        kpref.train(flow.model, kpref.Readout(np.ones((1, 3))), TRIALS, steps=2),
        kpref.train(flow.model, kpref.Readout(np.ones((1, 3))), TRIALS, steps=2).history,
        Objective(flow.model, kpref.Readout(np.ones((1, 3))), TRIALS),
        taylor_test(np.sin, lambda d: np.cos(np.ones(3)) * d, np.ones(3), np.ones(3)),
    ]
    for result in results:
        text = repr(result)
        assert text.startswith(f"{type(result).__name__}(")
        assert len(text) < 300
        assert "\n" not in text
    first = results[0].values[0]
    assert f"values=[{first:.4g}, " in repr(results[0])
    assert "vectors=float64 (8, 4, 5, 3)" in repr(results[0])


def everything(found, path="report"):
    """The objects of kpref that an object holds, by the names of their classes."""
    if isinstance(found, tuple | list):
        return {name: item for part in found for name, item in everything(part).items()}
    if not type(found).__module__.startswith("kpref"):
        return {}
    parts = [getattr(found, name) for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
    return {type(found).__name__: found} | everything(parts)


def test_everything_that_an_analysis_holds_is_one_line(flow):
    trials = kpref.Trials(np.ones((4, 5, 2)), targets=np.ones((4, 5, 1)), conditions=[0, 0, 1, 1])
    network = (Rate.init(2, 3, seed=0), kpref.Readout(np.ones((1, 3))))
    report = kpref.analyze([network, network], trials, dt=0.1, modes=2, progress=False)
    assert repr(pickle.loads(pickle.dumps(report))) == repr(report)
    gradient = flow.gradient_flow(kpref.Readout(np.ones((1, 3))), targets=np.ones((4, 5, 1)))
    solution = report.study.analyses[0].flow.solution
    found = everything([report, gradient, flow.linearization, kpref.schmidt_spectrum(flow), solution])
    assert {"Analysis", "Comparison", "FiniteDifferences", "GradientFlow", "Lyapunov", "StepForm", "Tableau"} <= set(
        found
    )
    for result in found.values():
        text = repr(result)
        assert len(text) < 750
        assert "\n" not in text
        assert " object at 0x" not in text


def cells(table):
    return re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", table)


def test_a_flow_in_a_notebook(flow):
    found = cells(flow._repr_html_())
    assert found == [
        *("model", "GRU(2 inputs, 3 states, 63 trainable)", "trials", "4", "steps", "5", "units", "3"),
        *("measure", "mean", "operators", "float64"),
    ]
    field = Flow(Rate.init(2, 3, seed=0), np.ones((4, 5, 2)), dt=0.25, method="heun")
    found = cells(field._repr_html_())
    assert found[found.index("times") + 1] == "5 from 0 to 1"
    assert found[found.index("method") + 1] == "heun, 4 steps"


def test_a_flow_whose_trials_end_early():
    flow = Flow(GRU.init(2, 3, seed=0), np.ones((2, 5, 2)), lengths=[3, 5])
    assert "5, of which trials have 3 to 5" in flow._repr_html_()


def test_a_table_is_escaped():
    assert cells(html_table([("a <b>", "c & d")], ["<e>"])) == ["", "&lt;e&gt;", "a &lt;b&gt;", "c &amp; d"]
