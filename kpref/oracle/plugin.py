"""Pytest plugin: ``pytest --kpref-backend=module:factory`` makes every check of a backend a test of its own.

The factory is a function of a `kpref.Flow`, the problem, and returns a backend as `kpref.oracle.backend` describes it;
where it does not know a model, or one of its options, it raises NotImplementedError, and the tests of that problem are
skipped. It runs in a process of its own, the same for all problems, which imports from where pytest does: a backend
that hangs or crashes fails its tests and no others. What it needs set up is set up in its own module: conftest.py is of
this process. ``--kpref-processes 2`` judges two problems at once, each with a backend in a process of its own, ahead of
the tests: for backends that share no device, or leave each other room on it.

There is a test for every check on every problem of `kpref.oracle.grid`, named ``kpref::<problem>::<check>``, with the
mark `kpref`, so that ``-k gru``, ``-k P_T`` or ``-m kpref`` selects some; ``--kpref-problems`` makes the tests of some
problems only, which starts sooner. A check of what the backend does not offer is
skipped with the reason. The test ``<problem>::verdict`` fails if the factory does (the others are then skipped), if a
check without a test of its own does, or if none could be made. If all tests were skipped, the exit status is 5, as if
there were none.

Without the option the plugin does nothing and imports nothing of kpref but its version.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kpref.oracle.judging import Judges, Outcome, Question
    from kpref.oracle.verdict import Check, Report

ARITHMETICS = ("float64", "float32", "tf32", "bfloat16", "float16")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("kpref", "verification of a backend by kpref")
    group.addoption("--kpref-backend", metavar="MODULE:FACTORY", help="function of a kpref.Flow that makes the backend")
    group.addoption("--kpref-arithmetic", choices=ARITHMETICS, help="by default what the backend declares")
    group.addoption("--kpref-seed", type=int, default=0, metavar="N", help="of the problems (default: 0)")
    group.addoption(
        "--kpref-problems",
        default="*",
        metavar="NAMES",
        help="problems or patterns, with commas: rnn-*,gru-plain",
    )
    group.addoption(
        "--kpref-processes",
        type=int,
        default=1,
        metavar="N",
        help="problems that are judged at once, each with a backend process of its own (default: 1)",
    )
    group.addoption("--kpref-timeout", type=float, default=60.0, metavar="S", help="seconds for a call (default: 60)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and the plugin that makes the tests where a backend is named."""
    config.addinivalue_line("markers", "kpref: verification of a backend by kpref")
    if config.getoption("--kpref-backend") is not None:
        config.pluginmanager.register(_Verification(config), "kpref-verification")


class CaseFailure(Exception):
    """A check that failed; its text is all there is to show."""


class _Problem:
    """One problem of the grid; the backend is verified on it when its first test runs, or before."""

    def __init__(self, question: Question, answer: Callable[[Question], Outcome]) -> None:
        self.question, self._answer = question, answer
        self._outcome: Outcome | None = None

    def names(self) -> list[str]:
        """Names of the tests."""
        from kpref.oracle.grid import PROBLEMS, check_names

        return [*check_names(PROBLEMS[self.question.problem]), "verdict"]

    def report(self) -> Report:
        """The report, or the fault of the factory, the same each time."""
        if self._outcome is None:
            self._outcome = self._answer(self.question)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    @property
    def repeat(self) -> str:
        """How to have the same problem again, outside of pytest."""
        name, seed = self.question.problem, self.question.seed
        return f"the problem: kpref.oracle.grid.PROBLEMS[{name!r}].build(seed={seed})"


class CheckItem(pytest.Item):
    """The test of one check on one problem."""

    def __init__(self, *, problem: _Problem, **options: Any) -> None:
        super().__init__(**options)
        self.problem = problem
        self.add_marker(pytest.mark.kpref)

    def runtest(self) -> None:
        """Pass, skip or fail as the check did."""
        from kpref.oracle.backend import BackendFault
        from kpref.oracle.integers import NotExact

        __tracebackhide__ = True
        try:
            report = self.problem.report()
        except NotExact as error:
            pytest.skip(f"the whole numbers of this problem do not fit: {error}")
        except BackendFault as fault:
            if fault.kind == "unknown problem":
                pytest.skip(str(fault))
            if self.name == "verdict":
                raise CaseFailure(f"{fault}\n{self.problem.repeat}") from None
            pytest.skip("not reached: there is no backend, see verdict")
        if self.name == "verdict":
            self._verdict(report)
        else:
            self._check({check.identifier: check for check in report.checks})

    def _check(self, checks: dict[str, Check]) -> None:
        operator = self.name.split(".")[0]
        check = checks.get(self.name)
        if check is None:
            first = next((other for other in checks.values() if other.operator == operator), None)
            if first is None or first.verdict == "not offered":
                pytest.skip(f"{operator} is not offered")
            pytest.skip(f"not reached: see {first.identifier}")
        if check.verdict == "not offered":
            pytest.skip(f"{operator} is not offered" + (check.message and f": {check.message}"))
        if check.verdict != "pass":
            raise CaseFailure(self._text([check]))

    def _verdict(self, report: Report) -> None:
        own = set(self.problem.names())
        bad = [c for c in report.checks if c.identifier not in own and c.verdict in ("defect", "could not run")]
        if bad:
            raise CaseFailure(self._text(bad))
        if all(check.verdict == "not offered" for check in report.checks):
            raise CaseFailure("the backend offers nothing that can be verified")

    def _text(self, checks: list[Check]) -> str:
        """What is shown: the gist in the first line, which is all that pytest's summary has room for."""
        gist = checks[0].guess or checks[0].message or checks[0].meaning
        return "\n".join([gist, *(f"{check}\n{'':<14}{check.equation}" for check in checks), self.problem.repeat])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The check as text."""
        if isinstance(excinfo.value, CaseFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Where the test stands: in no file."""
        return "kpref", None, f"{self.problem.question.problem}::{self.name}"


class ProblemNode(pytest.Collector):
    """The node that the tests of a problem hang on."""

    def __init__(self, *, problem: _Problem, **options: Any) -> None:
        super().__init__(**options)
        self.problem = problem

    def collect(self) -> list[pytest.Item]:
        """A test for each check, and the verdict."""
        names = self.problem.names()
        return [CheckItem.from_parent(self, name=name, problem=self.problem) for name in names]


class _Verification:
    """Makes the tests, and sees to it that a run in which all of them were skipped does not look like a success."""

    def __init__(self, config: pytest.Config) -> None:
        from kpref.oracle.isolation import Worker

        self.config = config
        self.worker = Worker(sys.path)
        self.judges: Judges | None = None
        self.outcomes: set[str] = set()

    def pytest_report_header(self) -> str:
        """The backend and the seed."""
        option = self.config.getoption
        arithmetic = option("--kpref-arithmetic") or "its own arithmetic"
        return f"kpref: {option('--kpref-backend')}, {arithmetic}, --kpref-seed={option('--kpref-seed')}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add the tests, before anything else selects among them."""
        from kpref.oracle.backend import BackendFault

        option = self.config.getoption
        if option("--kpref-processes") < 1:
            raise pytest.UsageError(f"--kpref-processes must be 1 or more; got {option('--kpref-processes')}")
        try:
            self.worker.load(option("--kpref-backend"), option("--kpref-timeout"))
        except BackendFault as fault:
            raise pytest.UsageError(f"--kpref-backend: {fault}") from fault
        items += list(self._items(session))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Have the problems judged ahead, of which there are tests to be run."""
        from kpref.oracle.judging import Judges

        questions = dict.fromkeys(item.problem.question for item in session.items if isinstance(item, CheckItem))
        number = min(self.config.getoption("--kpref-processes"), len(questions))
        if number > 1 and not self.config.getoption("--collect-only"):
            self.worker.stop()  # it has shown that there is such a factory
            self.judges = Judges(number, sys.path)
            self.judges.expect(questions)

    def _answer(self, question: Question) -> Outcome:
        from kpref.oracle.judging import judge

        return judge(question, self.worker) if self.judges is None else self.judges.outcome(question)

    def _names(self) -> list[str]:
        """Problems that are asked for."""
        from difflib import get_close_matches

        from kpref.oracle.grid import PROBLEMS

        found: set[str] = set()
        for pattern in self.config.getoption("--kpref-problems").split(","):
            named = {name for name in PROBLEMS if fnmatchcase(name, pattern.strip())}
            if not named:
                near = get_close_matches(pattern.strip(), PROBLEMS, cutoff=0) if pattern.strip() else list(PROBLEMS)[:3]
                raise pytest.UsageError(
                    f"--kpref-problems: no problem is named {pattern.strip()!r}; there are, among others, "
                    + ", ".join(near)
                )
            found |= named
        return [name for name in PROBLEMS if name in found]

    def _items(self, session: pytest.Session) -> Iterator[pytest.Item]:
        from kpref.oracle.judging import Question

        of_all = [self.config.getoption(f"--kpref-{name}") for name in ("seed", "backend", "arithmetic", "timeout")]
        for name in self._names():
            problem = _Problem(Question(name, *of_all), self._answer)
            node = ProblemNode.from_parent(session, name=name, nodeid=f"kpref::{name}", problem=problem)
            # As pytest itself does with a file: the terminal and other plugins count what they are told of.
            session.ihook.pytest_collectstart(collector=node)
            report = session.ihook.pytest_make_collect_report(collector=node)
            session.ihook.pytest_collectreport(report=report)
            yield from report.result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of our tests."""
        if report.nodeid.startswith("kpref::") and (report.when == "call" or report.outcome != "passed"):
            self.outcomes.add(report.outcome)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Exit status 5 if everything was skipped."""
        if self.outcomes == {"skipped"} and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_unconfigure(self) -> None:
        """End the processes of the backends."""
        self.worker.stop()
        if self.judges is not None:
            self.judges.stop()
