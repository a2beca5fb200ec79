"""The pytest plugin, in a scratch project of its own."""

import re
import subprocess
import sys
import xml.etree.ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from apparatus.kept_worker import KeptWorker

import kpref
from kpref.oracle import flow_backend, verify
from kpref.oracle.grid import PROBLEMS, check_names

pytest_plugins = ["pytester"]

# A project with nothing but NumPy: P and P^T of the tanh network, right and with one transpose left out.
BACKEND = """
import os
import numpy as np

class TanhNetwork:
    dtype = "float64"
    transposed = True

    def __init__(self, flow):
        options = flow.model.options
        if type(flow.model).__name__ != "RNN" or options["nonlinearity"] != "tanh":
            raise NotImplementedError("only tanh networks")
        p = flow.model.parameters
        self.weight, z, states = p["weight_hh"], flow.z0, []
        for x in flow.inputs.swapaxes(0, 1):
            z = np.tanh(z @ self.weight.T + x @ p["weight_ih"].T + p.get("bias_ih", 0) + p.get("bias_hh", 0))
            states.append(z)
        self.states = np.stack(states, axis=1)
        self.slope = 1 - self.states**2

    def P(self, q):
        y = q.copy()
        for n in range(1, q.shape[1]):
            y[:, n] += self.slope[:, n] * (y[:, n - 1] @ self.weight.T)
        return y

    def P_T(self, g):
        l = g.copy()
        for n in range(g.shape[1] - 1, 0, -1):
            l[:, n - 1] += (self.slope[:, n] * l[:, n]) @ (self.weight if self.transposed else self.weight.T)
        return l

class Wrong(TanhNetwork):
    transposed = False

def in_short_numbers(flow):
    backend = TanhNetwork(flow)
    backend.P = lambda q: (TanhNetwork.P(backend, q).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return backend

class Crashing(TanhNetwork):
    def P_T(self, g):
        os.abort()

def failing(flow):
    raise RuntimeError("no device")

def empty(flow):
    return object()

def own(flow):
    from kpref.oracle import flow_backend
    return flow_backend(flow)

def unknown(flow):
    raise NotImplementedError("nothing at all")
"""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """All that a verification imports: modules that a run of pytest in this process is the first to import it drops."""
    flow = PROBLEMS["rnn-plain"].build()
    assert verify(flow_backend(flow), flow).passed


@pytest.fixture(scope="module")
def worker():
    worker = KeptWorker()
    yield worker
    worker.end()


@pytest.fixture
def run(pytester, monkeypatch, worker):
    """Run pytest in a project that has the backend and no test: in this process, where that is not the question."""
    monkeypatch.setenv("PYTHONPATH", str(Path(kpref.__file__).parents[1]))
    pytester.makepyfile(scratch=BACKEND)
    pytester.syspathinsert()
    monkeypatch.setattr("kpref.oracle.isolation.Worker", worker.importing_from)
    installed = any(point.name == "kpref" for point in entry_points(group="pytest11"))

    def run(*arguments, alone=False):
        plugin = [] if installed else ["-p", "kpref.oracle.plugin"]
        start = pytester.runpytest_subprocess if alone else pytester.runpytest_inprocess
        return start(*plugin, "-p", "no:cacheprovider", *arguments)

    return run


def test_a_right_backend_passes_and_what_it_lacks_is_skipped(run, pytester):
    covered = [problem for name, problem in PROBLEMS.items() if re.match(r"rnn-\d", name)]
    smallest = min(covered, key=lambda problem: problem.trials * problem.steps * problem.states)
    some = ("rnn-plain", "rnn-one", "rnn-exact", smallest.name)
    select = "--kpref-problems=gru-plain," + ",".join(f"{name}*" for name in some)
    result = run("--kpref-backend=scratch:TanhNetwork", "-rs", "--junitxml=report.xml", select, alone=True)
    assert result.ret == 0
    problems = [problem for problem in PROBLEMS.values() if problem.name.startswith(some)]
    known = [p for p in problems if p.options.get("nonlinearity", "tanh") == "tanh" and not p.exact]
    offered = ("states", "P.", "P_T.")
    passed = sum(name.startswith(offered) for problem in known for name in check_names(problem)) + len(known)
    names = [name for problem in (*problems, PROBLEMS["gru-plain"]) for name in (*check_names(problem), "verdict")]
    result.assert_outcomes(passed=passed, skipped=len(names) - passed)
    result.stdout.fnmatch_lines(["*kpref: scratch:TanhNetwork*--kpref-seed=0*"])
    result.stdout.fnmatch_lines(["*does not know this problem: only tanh networks*"])
    result.stdout.fnmatch_lines(["*K is not offered*"])
    tree = xml.etree.ElementTree.parse(pytester.path / "report.xml")
    cases = {case.get("classname") + "." + case.get("name") for case in tree.iter("testcase")}
    assert len(cases) == len(names)
    assert any("rnn-one-step" in case and case.endswith("P_T.residual") for case in cases)


def test_a_defect_is_a_failure_with_place_class_and_seed(run):
    result = run("--kpref-backend=scratch:Wrong", "--kpref-seed=7", "--kpref-problems=rnn-plain, rnn-one-step")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*rnn-plain::P_T.residual*",
            "transpose: recurrent0 transposed",
            "*first at trial *, step *, unit *",
            "*rnn-plain*build(seed=7)*",
            "FAILED kpref::rnn-plain::P_T.residual - transpose*",
        ]
    )
    assert "FAILED kpref::rnn-one-step" not in result.stdout.str()  # one step has no recurrence


def test_the_seed_and_the_arithmetic_reach_the_problem(run):
    arguments = (
        "--kpref-backend=scratch:in_short_numbers",
        "--kpref-problems=rnn-plain",
        "-k",
        "P.residual",
        "--kpref-seed=1",
    )
    result = run(*arguments, "--kpref-arithmetic=bfloat16")
    result.assert_outcomes(passed=1, deselected=result.parseoutcomes()["deselected"])
    result = run(*arguments)
    result.stdout.fnmatch_lines(["precision lower than declared*", "*rnn-plain*build(seed=1)*"])


def test_a_crash_fails_its_own_test_and_no_other(run):
    result = run("--kpref-backend=scratch:Crashing", "--kpref-problems=rnn-plain")
    result.assert_outcomes(failed=1, **{k: v for k, v in result.parseoutcomes().items() if k != "failed"})
    result.stdout.fnmatch_lines(["FAILED kpref::rnn-plain::P_T.residual - *P_T ended the process by signal SIGABRT*"])


def test_two_judges_say_what_one_says(run):
    """A fault of the factory and a crash come from other processes too."""
    arguments = ("--kpref-backend=scratch:Crashing", "--kpref-problems=rnn-plain,rnn-exact,gru-plain", "-rA")
    one, two = (run(*arguments, "-k", "P_T or verdict", f"--kpref-processes={number}") for number in (1, 2))
    assert one.parseoutcomes() == two.parseoutcomes()
    told = [[line for line in result.outlines if "kpref::" in line] for result in (one, two)]
    assert told[0] == told[1]
    assert run(*arguments, "--kpref-processes=0").ret == pytest.ExitCode.USAGE_ERROR


def test_problems_of_whole_numbers(run):
    arguments = ("--kpref-backend=scratch:own", "-rs", "--kpref-problems=low-rank-exact")
    tests = len(check_names(PROBLEMS["low-rank-exact"])) + 1
    result = run(*arguments)
    result.assert_outcomes(passed=tests)
    result = run(*arguments, "--kpref-arithmetic=bfloat16")
    result.assert_outcomes(skipped=tests)
    result.stdout.fnmatch_lines(["*the whole numbers of this problem do not fit: *bfloat16*"])


@pytest.mark.parametrize(
    "factory, problem, status, lines",
    [
        ("failing", "gru-plain", 1, ["*RuntimeError: no device*", "FAILED kpref::gru-plain::verdict*", "*1 failed*"]),
        ("empty", "gru-plain", 1, ["*offers nothing*", "*1 failed*"]),
        ("unknown", "gru-plain", 5, ["*skipped*"]),
        ("nowhere", "gru-plain", 4, ["*--kpref-backend*no attribute 'nowhere'*"]),
        ("own", "gru-*, gru-plane", 4, ["*--kpref-problems: no problem is named 'gru-plane'*gru-plain*"]),
    ],
)
def test_backends_that_cannot_be_made(run, factory, problem, status, lines):
    result = run(f"--kpref-backend=scratch:{factory}", f"--kpref-problems={problem}")
    assert result.ret == status
    output = result.stdout.str() + result.stderr.str()
    pytest.LineMatcher(output.splitlines()).fnmatch_lines(lines)


def test_the_tests_join_those_of_the_project(run, pytester):
    pytester.makepyfile(test_own="def test_own(): pass")
    arguments = ("--kpref-backend=scratch:TanhNetwork", "--kpref-problems=rnn-*", "-m", "kpref or not kpref")
    result = run(*arguments, "-k", "own or rnn-one-of-all")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_own.py*"])
    result = run()
    result.assert_outcomes(passed=1)


def test_importing_the_plugin_costs_nothing():
    code = (
        "import sys, pytest; before = set(sys.modules); import kpref.oracle.plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} <= {"kpref", "importlib"}
