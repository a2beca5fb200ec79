"""How the tests run: Hypothesis profiles, and no silent skip of a test that needs another array library.

``KPREF_HYPOTHESIS=thorough`` draws thousands of random examples and prints the seed that repeats them (pass it back
with ``--hypothesis-seed``); otherwise examples are derived from the test alone, so that two runs see the same ones.
``KPREF_REQUIRE_BACKENDS=1`` turns a skip for want of an optional package into a failure.
"""

import os
import random
from collections.abc import Generator, Iterable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

SLOW_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]

# No deadline: the first call of a kernel compiles it.
settings.register_profile("ci", derandomize=True, max_examples=20, deadline=None, print_blob=True)
settings.register_profile(
    "thorough", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=SLOW_CHECKS
)
Case = TypeVar("Case")
PROFILE = os.environ.get("KPREF_HYPOTHESIS", "ci")
REQUIRE_BACKENDS = os.environ.get("KPREF_REQUIRE_BACKENDS") == "1"


@pytest.fixture(scope="module")
def coarse_pictures() -> Generator[None, None, None]:
    """Pictures of few pixels, laid out by nobody, take less time: for reports of which nobody looks at the pictures."""
    from kpref.analysis import exhibits
    from kpref.plots import STYLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "figure.dpi", 40)
        patch.setattr(exhibits, "fit_axes", lambda figure: None)
        yield


@pytest.fixture(scope="module")
def blank_pictures() -> Generator[None, None, None]:
    """Nothing is drawn: for reports whose words, numbers and files are the question; test_report.py draws them."""
    from kpref.analysis.exhibits import Panel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Panel, "picture", lambda panel, kind: b"not drawn")
        yield


def in_turn(cases: Iterable[Case], every: int) -> list[Case]:
    """Every so manieth of cases that are all of one law; in the thorough profile all of them."""
    return list(cases)[:: 1 if PROFILE == "thorough" else every]


@pytest.fixture(scope="module")
def torch_on_one_thread() -> Generator[None, None, None]:
    """Small products are computed sooner by one thread than two of them meet, most of all on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(PROFILE)
    if PROFILE == "thorough" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.getoption("--hypothesis-seed")
    return f"hypothesis examples: {PROFILE}" + ("" if seed is None else f", --hypothesis-seed={seed}")


def fail_if_skipped_for_want_of_a_package(report: pytest.TestReport | pytest.CollectReport, needed: bool) -> None:
    """Turn a skip into a failure where the test is marked as needed or `pytest.importorskip` skipped it."""
    if not (REQUIRE_BACKENDS and report.outcome == "skipped") or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if needed or "could not import" in reason:
        report.outcome = "failed"
        report.longrepr = f"{reason}\nKPREF_REQUIRE_BACKENDS=1 does not allow this test to be skipped"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped_for_want_of_a_package(report, item.get_closest_marker("backends") is not None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped_for_want_of_a_package(report, needed=False)
    return report
