"""The leading eigenpairs of the NTK by the workers of a cluster against one process with as many threads.

    python scripts/sharded.py [--trials 1000 --steps 90 --states 128 --pairs 5 --repeats 3 --workers 1 2 4]

First the bits: eigenvalues, directions, the gradient and a trace for this process and each number of workers. With them
the bytes that cross sockets for a product, each counted once, against two vectors of parameters a worker: the vector
goes to a worker, and its sum comes back. Then the times: `kpref.Flow` in this process with as many threads as there are
cores, and that many workers of one thread each, in turn, from the model and its trials to the eigenpairs.

The workers of a number that is a power of two hold whole subtrees where the shards are a multiple of it; `--shard` sets
the trials of a shard.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster
from distributed.comm.tcp import TCP

import kpref
from kpref.distributed import WORKER_ENVIRONMENT, ShardedFlow

N_INPUTS, N_OUTPUTS = 3, 2


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"trials": 1000, "steps": 90, "states": 128, "pairs": 5, "shard": 125, "products": 10, "repeats": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="for the bits and the bytes")
    parser.add_argument("--timed", type=int, default=os.cpu_count(), help="workers of one thread, and threads")
    return parser.parse_args(given)


@contextmanager
def workers(number: int) -> Iterator[Client]:
    """A cluster of processes of this machine, with one thread each."""
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": dict(WORKER_ENVIRONMENT)}),
        LocalCluster(n_workers=number, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, direct_to_workers=True) as client,
    ):
        yield client


# Bytes: whatever is written to a socket by this process, in which the client and the scheduler are, or by a worker


def count_bytes() -> None:
    """Let this process count what it writes from now on."""
    if not hasattr(TCP, "written"):
        plain = TCP.write

        async def write(self: TCP, *values: Any, **options: Any) -> Any:
            number = await plain(self, *values, **options)
            TCP.written += number  # type: ignore[attr-defined]
            return number

        TCP.write = write  # type: ignore[method-assign]
    TCP.written = 0  # type: ignore[attr-defined]


def written() -> int:
    """What it has written."""
    return int(TCP.written)  # type: ignore[attr-defined]


def bytes_a_product(client: Client, flow: ShardedFlow, products: int) -> float:
    """What all processes write for one product, on average."""
    vectors = np.random.default_rng(1).standard_normal((products + 1, flow.model.n_parameters))
    flow.gram.apply(vectors[:1])  # models and shards are where they belong
    for count in (count_bytes, lambda: client.run(count_bytes)):
        count()
    for vector in vectors[1:]:
        flow.gram.apply(vector[None])
    return (written() + sum(client.run(written).values())) / products


# Problems


class Problem:
    """A model, trials with targets, and a readout."""

    def __init__(self, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        shape = options.trials, options.steps
        inputs = np.cumsum(rng.standard_normal((*shape, N_INPUTS)), axis=1) / np.sqrt(options.steps)
        self.model = kpref.models.GRU.init(N_INPUTS, options.states, seed=0)
        self.trials = kpref.Trials(inputs, targets=rng.standard_normal((*shape, N_OUTPUTS)))
        self.readout = kpref.Readout(rng.standard_normal((N_OUTPUTS, options.states)))
        self.options = options

    def sharded(self, client: Client | None = None) -> ShardedFlow:
        """In shards."""
        return ShardedFlow(self.model, self.trials, client, self.options.shard)

    def numbers(self, flow: ShardedFlow) -> list[Any]:
        """Those that must be the same to the last bit."""
        pairs = flow.eigh(self.options.pairs)
        gradient = flow.gradient(self.readout)
        return [pairs.values, pairs.vectors, gradient.loss, gradient.grad_theta, flow.trace(4).value]


def same_bits(problem: Problem) -> None:
    """Compare this process and each number of workers, and print what a product moves."""
    wanted = problem.numbers(problem.sharded())
    for number in problem.options.workers:
        with workers(number) as client:
            flow = problem.sharded(client)
            same = all(map(np.array_equal, problem.numbers(flow), wanted))
            moved = bytes_a_product(client, flow, problem.options.products)
        floor = 2 * 8 * problem.model.n_parameters * number
        print(
            f"{number} workers: {'the same bits as in this process' if same else 'OTHER BITS'}; "
            f"{moved / 1e6:.4g} MB a product, {moved / floor:.3f} of two vectors of {problem.model.n_parameters} "
            "numbers a worker",
            flush=True,
        )


def processor_time(client: Client) -> float:
    """Seconds of processors that this process and the workers have used."""
    return time.process_time() + sum(client.run(time.process_time).values())


def times(problem: Problem) -> None:
    """Time one process and the workers in turn."""
    number, pairs = problem.options.timed, problem.options.pairs
    kpref.set_num_threads(number)
    with workers(number) as client:
        contenders: dict[str, Callable[[], Any]] = {
            "process": lambda: kpref.eigh(kpref.Flow(problem.model, problem.trials).NTK, pairs),
            "workers": lambda: problem.sharded(client).eigh(pairs),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for turn in range(problem.options.repeats + 1):
            for name, run in contenders.items():
                begun, used = time.perf_counter(), processor_time(client)
                result = run()
                took = time.perf_counter() - begun, processor_time(client) - used
                if turn:  # the first one finds code and files
                    found[name].append(took)
                words = "{:.3f} s, {:.3f} of all cores".format(*took)
                print(f"  {name}: {words}, {result.n_products} products", flush=True)
    for index, what in enumerate(("seconds", "seconds of all cores")):
        process, others = (statistics.median(took[index] for took in found[name]) for name in contenders)
        print(f"{number} workers x 1 thread: {others:.3f}; 1 process x {number} threads: {process:.3f} {what}; "
              f"ratio {others / process:.3f}")  # fmt: skip


def main(given: Sequence[str] | None = None) -> None:
    """Bits and bytes, then times."""
    options = arguments(given)
    problem = Problem(options)
    print(problem.sharded())
    same_bits(problem)
    if options.repeats:
        times(problem)


if __name__ == "__main__":
    main()
