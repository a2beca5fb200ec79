"""How fast the operators are, against the machine's matrix products and memory, JAX, diffrax and PyTorch.

The *floor* of a column is the time that its matrix products alone would take at the rate at which this machine
multiplies large square matrices, or, if that is longer, the time in which it copies the bytes that have to be moved:
what decides for networks without products, such as diagonal ones and those with states as wide as a weight. With B
trials and n evaluations of the network in each of them (N steps of a map; s N
stages of a Runge-Kutta method of s stages),

    forward    2 B n f                      the network itself, f entries of all its weights
    P, P^T     2 B n p                      one product with A an evaluation, p entries of its weights
    K          4 B n j                      J^T, then J, of j entries
    NTK        the sum of P^T, K and P
    build      as forward                   and the linearisation, at all stages, which is no product
    gradient   the sum of forward, P^T and J^T

with p = k H^2 and j = f = k H (H + n_in) for k gates, H units and n_in inputs; for other networks see
`kpref.models.Model.multiplications`. These are floating-point operations (a multiplication and an addition are two).
Bytes are those of coefficients that vary along trajectories, of what the weights multiply, and of the tensors: P and
P^T read the coefficients that states go through, and read and write a tensor; K reads twice those that parameters go
through, with what their weights multiply; NTK, in two sweeps, twice all of them; and both read a tensor and write one.

The rates are measured right before each timing of kpref, and the ratio to the floor pairs the two, so that other work
on the machine slows down both. What a column takes *in turn*, measured there too, adds up what the floor takes the
longer of: see `kpref.bench.in_turn`. All figures are medians. `kpref.bench.workload` says what the columns are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from threadpoolctl import threadpool_limits

from kpref._archives import replacing
from kpref._terminal import Progress
from kpref._version import __version__
from kpref.bench.in_turn import measure_in_turn
from kpref.bench.peers import CONTENDERS
from kpref.bench.workload import Problem, count_bytes, count_operations
from kpref.threads import blas_names, get_num_threads, run_blocks

AGREEMENT = {"float64": 1e-10, "float32": 3e-4}
"""Difference from kpref, over the largest entry, from which a contender is wrong. The operators can be
ill-conditioned, so that right ones differ by many roundings; a wrong one has no digit right."""

COPIED = 1 << 23
"""Numbers in the array whose copy gives the bandwidth: more than caches hold."""

SQUARE = 2000
"""Size of the matrices whose product gives the rate: the product is large enough for all threads to be busy."""

CALLS = 3
"""Timed calls of a column in a round, after one that is not timed."""

CALL_BUDGET = 1.0
"""Seconds after which it is not called again in a round."""

BUILD_BUDGET = 5.0
"""Seconds after which a contender is not built again in further rounds."""

SETTLE = 0.4
"""Seconds between processes: the threads of BLAS and OpenMP spin for a while after their last work.

Those of OpenBLAS for 2^28 ticks of the processor's counter, which are 0.13 s at 2.1 GHz: products timed then take
up to twice as long."""


@dataclass
class Record:
    """What was measured of one contender."""

    dtype: str = ""
    # peak bytes, beyond imports, of one build and one product with the NTK, or one gradient where there is no NTK; None
    # where that cannot be measured
    memory: int | None = None
    # largest entry of the difference from kpref over the largest entry, at worst over the columns
    difference: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)  # by column, of those that the contender fills
    error: str | None = None  # why there is nothing else

    def median(self, column: str) -> float:
        """Median seconds."""
        return float(np.median(self.seconds[column]))


@dataclass
class Benchmark:
    """One run of the benchmark."""

    problem: Problem
    threads: int
    libraries: str  # the BLAS libraries, and the processors that they have code for
    records: dict[str, Record]  # by contender
    # floating-point operations per second of a product of square matrices, as often as it was measured
    rates: list[float] = field(default_factory=list)
    # bytes per second, read and written, of a copy, as often
    bandwidths: list[float] = field(default_factory=list)
    # by column, seconds of products in the shapes that kpref makes, and then of the bytes
    in_turn: dict[str, list[float]] = field(default_factory=dict)
    # by column, kpref's seconds over the floor at the rate measured right before them
    ratios: dict[str, list[float]] = field(default_factory=dict)

    def floor(self, column: str) -> float:
        """Seconds that the matrix products of a column take at the median rate, or its bytes, if that is longer."""
        return _floor(self.problem, column, float(np.median(self.rates)), float(np.median(self.bandwidths)))


def _floor(problem: Problem, column: str, rate: float, bandwidth: float) -> float:
    return max(count_operations(problem)[column] / rate, count_bytes(problem)[column] / bandwidth)


class Worker:
    """A contender in a process of its own. It may fail; then `record` says why and requests do nothing."""

    def __init__(self, name: str, problem: Problem) -> None:
        self.record = Record()
        # Libraries have much to say on standard error when they start; their errors come as answers.
        verbose = os.environ.get("KPREF_DEBUG") == "1"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kpref.bench.contender_process", name, json.dumps(asdict(problem))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            text=True,
        )
        started = self._answer()
        self.record.dtype, self.record.memory = started.get("dtype", ""), started.get("memory")
        self.record.seconds = {column: [] for column in CONTENDERS[name].columns(problem)}
        if "build" in self.record.seconds:
            self.record.seconds["build"] += started.get("seconds", [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: Any) -> list[float]:
        """Send a request (see `contender_process.answers`) and return the seconds in its answer; none on failure."""
        if self.record.error is not None:
            return []
        assert self.process.stdin is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:  # it died since its last answer; the missing answer tells of that
            pass
        seconds: list[float] = self._answer().get("seconds", [])
        return seconds

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._cause_of_death()}
        self.record.error = answer.get("error")
        return answer

    def _cause_of_death(self) -> str:
        status = self.process.wait()
        if status < 0:
            hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-status).name}{hint}"
        return f"its process ended with status {status}"


def measure(problem: Problem, names: Sequence[str], repeats: int, bar: Progress) -> Benchmark:
    """Run the benchmark: memory first, each contender in its fresh process, then agreement, then rounds of timings.

    `names`: contenders, kpref first. `repeats`: rounds, in each of which every contender has its turn.
    """
    with ExitStack() as stack:
        workers = {}
        for name in names:
            bar.phase(f"{name}: memory")
            workers[name] = stack.enter_context(Worker(name, problem))
        records = {name: worker.record for name, worker in workers.items()}
        benchmark = Benchmark(problem, get_num_threads(), blas_names(), records)
        benchmark.ratios = {column: [] for column in problem.columns}
        benchmark.in_turn = {column: [] for column in problem.columns}
        compare(workers)
        for turn in range(repeats):
            for name, worker in workers.items():
                bar.phase(f"{name}: time, round {turn + 1} of {repeats}")
                for column in worker.record.seconds:
                    if name == "kpref":
                        benchmark.rates.append(measure_rate(problem.dtype, benchmark.threads))
                        benchmark.bandwidths.append(measure_bandwidth(benchmark.threads))
                        time.sleep(SETTLE)
                        seconds_in_turn = measure_in_turn(problem, column, benchmark.bandwidths[-1], benchmark.threads)
                        benchmark.in_turn[column].append(seconds_in_turn)
                    seconds = time_column(worker, column)
                    if name == "kpref" and seconds:
                        floor = _floor(problem, column, benchmark.rates[-1], benchmark.bandwidths[-1])
                        benchmark.ratios[column].append(float(np.median(seconds)) / floor)
                time.sleep(SETTLE)
    return benchmark


def time_column(worker: Worker, column: str) -> list[float]:
    """Time one column of one contender; nothing where it has spent its time for building."""
    if column != "build":
        seconds = worker.ask(do="time", column=column, calls=CALLS, budget=CALL_BUDGET)
    elif sum(worker.record.seconds["build"]) < BUILD_BUDGET:
        seconds = worker.ask(do="build")
    else:
        seconds = []
    worker.record.seconds[column] += seconds
    return seconds


def measure_rate(dtype: str, threads: int) -> float:
    """Floating-point operations per second of one product of square matrices on this many threads."""
    matrix = np.random.default_rng(0).random((SQUARE, SQUARE)).astype(dtype)
    product = np.empty_like(matrix)
    with threadpool_limits(threads, "blas"):
        np.dot(matrix[:256], matrix, out=product[:256])  # wakes the threads
        start = time.perf_counter()
        np.dot(matrix, matrix, out=product)
        return 2 * SQUARE**3 / (time.perf_counter() - start)


def measure_bandwidth(threads: int) -> float:
    """Bytes per second, read and written, of one copy of a large array by this many threads."""
    source = np.ones(COPIED)
    target = source.copy()  # memory that has been written to: the first time, the system has to find it
    ends = [COPIED * part // threads for part in range(threads + 1)]

    def task(index: int) -> None:
        part = slice(ends[index], ends[index + 1])
        np.copyto(target[part], source[part])

    start = time.perf_counter()
    run_blocks(task, threads)
    return 2 * source.nbytes / (time.perf_counter() - start)


def compare(workers: Mapping[str, Worker]) -> None:
    """Compare what the contenders compute with kpref's results; one that disagrees is not timed."""
    with tempfile.TemporaryDirectory(prefix="kpref-bench-") as folder:
        file = str(Path(folder) / "result.npy")
        for column in workers["kpref"].record.seconds:
            if column == "build":
                continue
            workers["kpref"].ask(do="save", column=column, file=file)
            if workers["kpref"].record.error is not None:
                return
            ours = np.load(file)
            for name, worker in workers.items():
                record = worker.record
                if name == "kpref" or column not in record.seconds:
                    continue
                worker.ask(do="save", column=column, file=file)
                if record.error is not None:
                    continue
                difference = float(np.max(np.abs(np.load(file) - ours)) / np.max(np.abs(ours)))
                record.difference = max(difference, record.difference or 0.0)
                if not difference < max(AGREEMENT[str(dtype)] for dtype in (ours.dtype, record.dtype)):
                    record.error = f"its {column} differs from kpref's by {difference:.1e} of the largest entry"


def format_report(benchmark: Benchmark) -> str:
    """Put the benchmark into a table of at most 100 columns."""
    problem, records, columns = benchmark.problem, benchmark.records, benchmark.problem.columns
    library = "dgemm" if problem.dtype == "float64" else "sgemm"
    tensor = 8 * int(np.prod(problem.shape))
    network = problem.model if problem.method is None else f"{problem.model} by {problem.method}"
    lines = [
        f"kpref {__version__}: {network}, {problem.trials} trials x {problem.steps} steps x {problem.shape[2]} "
        f"states, {problem.inputs} inputs, {problem.dtype}, {benchmark.threads} threads",
        f"matrix products: {np.median(benchmark.rates) / 1e9:.1f} GFLOP/s "
        f"({library} of size {SQUARE}, median of {len(benchmark.rates)} between the timings)",
        f"memory: {np.median(benchmark.bandwidths) / 1e9:.1f} GB/s (copies of {COPIED >> 17} MiB, between the timings)",
        f"libraries: {benchmark.libraries}",
        "",
        _row("milliseconds", columns, "peak memory (tensors)"),
        _row("floor", [_milliseconds(benchmark.floor(column)) for column in columns]),
        _row("  in turn", [_milliseconds(float(np.median(benchmark.in_turn[column]))) for column in columns]),
    ]
    for name, record in records.items():
        if record.error is not None:
            lines.append(f"{name:<20}{record.error}")
            continue
        memory = "not measured"
        if record.memory is not None:
            memory = f"{record.memory / 1e6:.1f} MB ({record.memory / tensor:.1f})"
        cells = [_milliseconds(record.median(column)) if column in record.seconds else "" for column in columns]
        lines.append(_row(name, cells, memory))
        if name == "kpref":
            ratios = [benchmark.ratios[column] for column in columns]
            lines.append(_row("  over the floor", [f"{np.median(ratio):.2f}" if ratio else "" for ratio in ratios]))
    lines += _gains(benchmark)
    differences = [f"{name} {r.difference:.0e}" for name, r in records.items() if r.difference is not None]
    lines += [
        "",
        "in turn: products of the shapes that kpref makes, then the bytes; both at once may take less",
    ]
    lines += ["peak memory: of one build and one NTK product, beyond imports; tensors of (B, T, H) float64"]
    if "diffrax" in records:
        lines.append("             of one gradient for diffrax, which makes no other products")
    if differences:
        lines += ["largest difference from kpref over the largest entry:", f"             {', '.join(differences)}"]
    return "\n".join(lines)


def _gains(benchmark: Benchmark) -> list[str]:
    """For each package of the peers, its best time of a column over that of kpref. Builds build different things."""
    lines = []
    for package in dict.fromkeys(CONTENDERS[name].package for name in benchmark.records):
        rivals = [
            record
            for name, record in benchmark.records.items()
            if CONTENDERS[name].package == package is not None and record.error is None
        ]
        gains = []
        for column in benchmark.problem.columns:
            times = [record.median(column) for record in rivals if column in record.seconds and column != "build"]
            gains.append(f"{min(times) / benchmark.records['kpref'].median(column):.2f}" if times else "")
        if rivals:
            lines.append(_row(f"{package} over kpref", gains))
    return lines


def _row(name: str, cells: Sequence[str], last: str = "") -> str:
    return f"{name:<20}{''.join(f' {cell:>8}' for cell in cells)}{last:>24}".rstrip()


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.4g}" if value >= 1e-3 else f"{value:.1e}"


def write_json(benchmark: Benchmark, path: Path) -> None:
    """Write all that was measured, in seconds, bytes and operations per second, whole or not at all."""
    content = {
        "kpref": __version__,
        "operations": count_operations(benchmark.problem),
        "bytes": count_bytes(benchmark.problem),
        **asdict(benchmark),
    }
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())
