from itertools import product

import numpy as np
import pytest
from apparatus.detest import PROBLEMS, SCIPY_METHODS, compare, reference, table

from tests.conftest import in_turn

PUBLISHED = {
    # End states to 16 digits in the tables of Enright and Pryce (1987): independent of this package and of SciPy.
    "A5": [-0.7887826688964196],
    "B1": [0.6761876008576667, 0.1860816099640036],
    "B2": [1.000000001030576, 1.000000000000000, 0.9999999989694235],
    "B3": [2.061153488557776e-09, 5.257228022048349e-02, 0.9474277177183630],
    "B4": [0.9826950928005993, 2.198447081694832, 0.9129452507276399],
    "B5": [-0.9396570798729192, -0.3421177754000779, 0.7414126596199957],
    "C1": [2.061153622240064e-09, 4.122307244619555e-08, 4.122307244716968e-07],
    "C2": [2.061153577984930e-09, 2.061153573736588e-09, 2.061153569488245e-09],
    "C3": [2.948119211022058e-03, 5.635380154844266e-03, 7.829072515926013e-03],
    "C4": [3.124111453721466e-03, 6.015416842150318e-03, 8.470021834842650e-03],
    "C5": [-4.792730224323733, -2.420550725448973, -9.212509306014886e-01, -4.217310404035213],
    "D1": [2.198835352008397e-01, 9.427076846341813e-01, -9.787659841058176e-01, 3.287977990962036e-01],
    "D5": [-1.295266250987574, 4.003938963792321e-01, -6.775390924707566e-01, -1.270838154278686e-01],
    "E1": [1.456723600728308e-01, -9.883500195574063e-02],
    "E2": [2.008149762174948, -4.250887527320057e-02],
}


def test_the_problems_are_those_of_the_paper():
    assert list(PROBLEMS) == [letter + digit for letter in "ABCDE" for digit in "12345"]
    assert [PROBLEMS[f"C{i}"].z0.size for i in range(1, 6)] == [10, 10, 10, 51, 30]


@pytest.mark.parametrize("name", PUBLISHED)
def test_end_states_are_the_published_ones(name):
    expected = np.array(PUBLISHED[name])
    # The reference allows 1e-13 for each of some 200 steps, which the near-collision of D5 multiplies by up to 1e3.
    np.testing.assert_allclose(
        reference(name)[: len(expected)], expected, rtol=0.0, atol=1e-10 if name == "D5" else 1e-11
    )


@pytest.mark.parametrize(
    "name, exact",
    [
        ("A1", [np.exp(-20.0)]),
        ("A2", [1.0 / np.sqrt(21.0)]),
        ("A3", [np.exp(np.sin(20.0))]),
        ("A4", [20.0 / (1.0 + 19.0 * np.exp(-5.0))]),
        ("E5", None),
    ],
)
def test_end_states_in_closed_form(name, exact):
    if name == "E5":
        # y' = sinh(log(25 / (25 - t))) = (25 / s - s / 25) / 2 with s = 25 - t.
        exact = [25.0 / 2.0 * np.log(5.0) - (625.0 - 25.0) / 100.0, 0.5 * (5.0 - 0.2)]
    np.testing.assert_allclose(reference(name), exact, rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("name, method", in_turn(product(PROBLEMS, SCIPY_METHODS), 2))
def test_as_accurate_as_scipy_for_the_same_work(name, method):
    """At rtol = atol = 1e-8: errors within 10 times SciPy's, for at most 1.3 times its evaluations."""
    comparison = compare(name, method)
    assert comparison.error_ratio <= 10.0
    assert comparison.evaluation_ratio <= 1.3


def test_table_has_a_line_for_each_comparison():
    lines = table([compare("A1", "dopri5"), compare("A1", "dop853")]).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("A1  dopri5")
