"""What products with the NTK take on 1 to 10,000 workers: a model of the costs, measured here, and checks of it.

    python scripts/scaling.py [--states 128 --steps 90 --shard 182 --memory 4 --bandwidth 1.25 --latency 0.0001]

With S shards on W workers, of which each keeps the flows of k shards between products, one product takes

    T(W) = max over workers (k' t_kept + (S_w - k') t_anew) + t_start + W (t_task + 2 v / b) + hops l + t_client,

    t_kept, t_anew    a shard whose flow is kept, and one whose model is run anew; one thread
    S_w, k'           its shards, ceil(S / W) at most, and how many of them it keeps
    t_start, t_task   of a product, and of the task of each worker: measured with tasks that do nothing
    v, b              bytes of a vector of parameters, bytes a second: one to each worker and one back
    hops, l           messages that wait for one another, and the seconds that each of them is under way
    t_client          the step of the eigensolver between two products.

It assumes that vectors pass one by one through the client, which sends each worker a copy of its own, that all shards
take the same time, and that nobody else uses the network.

The checks: seconds a product on 1 and 2 workers, and with every message delayed, against what the model says.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import Client
from distributed.comm.tcp import TCP
from sharded import N_INPUTS, workers

import kpref
from kpref.distributed import ShardedFlow
from kpref.distributed.shards import bytes_of
from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace

WORKERS = (1, 10, 100, 1000, 10_000)
TRIAL_STEPS = (10**6, 10**7, 10**8, 10**9)
#: Products of an eigensolver for a handful of pairs.
PRODUCTS = 60


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes; see the head."""

    kept: float
    anew: float
    start: float
    task: float
    hops: float
    client: float
    vector: float  # bytes
    flow: float  # bytes of the flow of a shard that is kept
    scratch: float  # bytes that a product of one shard takes besides

    def seconds(self, shards: int, number: int, memory: float, bandwidth: float, latency: float) -> float:
        """Of a product, on so many workers with so many bytes for each."""
        own = -(-shards // number)
        held = min(own, self.room(memory))
        work = held * self.kept + (own - held) * self.anew
        each = self.task + 2 * self.vector / bandwidth
        return work + self.start + min(number, shards) * each + self.hops * latency + self.client

    def room(self, memory: float) -> int:
        """How many flows a worker keeps in two fifths of its memory."""
        return int(0.4 * memory / self.flow)

    def worker_memory(self, shards: int, number: int, memory: float) -> float:
        """Bytes."""
        held = min(-(-shards // number), self.room(memory))
        return held * self.flow + self.scratch + 4 * self.vector

    def client_memory(self, shards: int, number: int) -> float:
        """Bytes: the bases of the eigensolver, and what the workers send."""
        return (2 * 40 + min(number, shards)) * self.vector


# Measurements


def best(run: Callable[[], object], repeats: int) -> float:
    """Median seconds, after a run that finds code."""
    run()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def nothing(shard: Any, *arguments: Any) -> Any:
    """A task without work."""
    return np.zeros(1)


class Measured:
    """A network, some shards of trials, and what they cost."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rng = options, np.random.default_rng(0)
        self.model = kpref.models.GRU.init(N_INPUTS, options.states, seed=0)
        shape = options.shards * options.shard, options.steps, N_INPUTS
        self.trials = kpref.Trials(np.cumsum(self.rng.standard_normal(shape), axis=1) / math.sqrt(options.steps))
        self.vector = self.rng.standard_normal((1, self.model.n_parameters))

    def flow(self, client: Client | None = None, keep: float = 1e12) -> ShardedFlow:
        """In shards, all of which are kept."""
        return ShardedFlow(self.model, self.trials, client, self.options.shard, keep=keep)

    def product(self, client: Client | None = None, keep: float = 1e12) -> float:
        """Seconds."""
        flow = self.flow(client, keep)
        return best(lambda: flow.gram.apply(self.vector), self.options.repeats)

    def overhead(self, client: Client) -> float:
        """Seconds of a product whose tasks do nothing and whose vector is one number."""
        engine = self.flow(client)._engine
        return best(lambda: engine.total(nothing, (self.model,), np.zeros(1)), 5 * self.options.repeats)

    def client_step(self) -> float:
        """Seconds of an eigensolver between two products: of a matrix that is diagonal."""
        space = EuclideanSpace((self.model.n_parameters,))
        numbers = np.linspace(0, 1, self.model.n_parameters) ** 8
        known = Structure(self_adjoint=True, positive=True)
        op = TensorOperator(lambda q: q * numbers, lambda q: q * numbers, space, space, structure=known)
        begun = time.perf_counter()
        found = kpref.eigh(op, 5, tol=1e-3)
        return (time.perf_counter() - begun) / found.n_products

    def costs(self) -> Costs:
        """All of them, with clusters of 1, 2 and 4 workers."""
        shards, overheads, slow = self.options.shards, {}, 0.0
        for number in (1, 2, 4):
            with workers(number) as client:
                overheads[number] = self.overhead(client)
                if number == 1:
                    with delayed(client, self.options.delay):
                        slow = self.overhead(client)
        task, start = np.polyfit(list(overheads), list(overheads.values()), 1)
        flow = kpref.Flow(self.model, self.trials.inputs[: self.options.shard])
        flow.D.apply(self.vector)
        states = 8.0 * self.options.shard * self.options.steps * self.options.states
        return Costs(
            self.product() / shards, self.product(keep=0) / shards, max(start, 0.0), max(task, 0.0),
            max(slow - overheads[1], 0.0) / self.options.delay, self.client_step(), 8.0 * self.model.n_parameters,
            bytes_of(flow), 8 * states,
        )  # fmt: skip


class delayed:  # noqa: N801
    """A context in which every message that this process or a worker writes is under way for some seconds more."""

    def __init__(self, client: Client, seconds: float) -> None:
        self.client, self.seconds = client, seconds

    def __enter__(self) -> None:
        self._set(self.seconds)

    def __exit__(self, *_: object) -> None:
        self._set(0.0)

    def _set(self, seconds: float) -> None:
        delay(seconds)
        self.client.run(delay, seconds)


def delay(seconds: float) -> None:
    """Let this process do so."""
    if not hasattr(TCP, "plain_write"):
        plain = TCP.plain_write = TCP.write  # type: ignore[attr-defined]

        async def write(self: TCP, *values: Any, **options: Any) -> Any:
            await asyncio.sleep(TCP.delay)  # type: ignore[attr-defined]
            return await plain(self, *values, **options)

        TCP.write = write  # type: ignore[method-assign]
    TCP.delay = seconds  # type: ignore[attr-defined]


# What comes of them


def check(measured: Measured, costs: Costs) -> None:
    """Products on 1 and 2 workers, as they are and delayed, against the model of them without the client's step."""
    print("checks: seconds a product, measured / as the model says")
    shards, loopback = measured.options.shards, 1e9
    for number in (1, 2):
        with workers(number) as client:
            for latency in (0.0, 2 * measured.options.delay):
                with delayed(client, latency):
                    found = measured.product(client)
                wanted = costs.seconds(shards, number, 1e15, loopback, latency) - costs.client
                print(
                    f"  {number} workers, messages {1e3 * latency:.0f} ms late: {found:.4f} / {wanted:.4f} = "
                    f"{found / wanted:.2f}",
                    flush=True,
                )


def table(costs: Costs, options: argparse.Namespace) -> None:
    """Predictions for problems and clusters of all sizes."""
    memory, bandwidth = options.memory * 2**30, options.bandwidth * 1e9
    print(f"{'trial-steps':>11} {'workers':>8} {'s/product':>10} {'speed-up':>9} {f'{PRODUCTS} products':>12} "
          f"{'GiB/worker':>10} {'GiB client':>10}")  # fmt: skip
    for points in TRIAL_STEPS:
        shards = -(-points // (options.shard * options.steps))
        times = [costs.seconds(shards, number, memory, bandwidth, options.latency) for number in WORKERS]
        for number, seconds in zip(WORKERS, times, strict=True):
            print(
                f"{points:11.0e} {number:8,} {seconds:10.3g} {times[0] / seconds:9.3g} {_time(PRODUCTS * seconds):>12} "
                f"{costs.worker_memory(shards, number, memory) / 2**30:10.2f} "
                f"{costs.client_memory(shards, number) / 2**30:10.2f}"
            )


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, check, predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"states": 128, "steps": 90, "shard": 182, "shards": 4, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of each worker")
    parser.add_argument("--bandwidth", type=float, default=1.25, help="GB a second of the network")
    parser.add_argument("--latency", type=float, default=1e-4, help="seconds of a message of the network")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds by which messages are delayed")
    options = parser.parse_args(given)
    kpref.set_num_threads(1)
    print(__doc__.partition("\n\n")[2].partition("\n\n")[2].rpartition("\n\nThe checks")[0])
    measured = Measured(options)
    costs = measured.costs()
    print(f"\n{measured.flow()}, one thread a worker")
    print(
        f"a shard {costs.kept:.4f} s kept, {costs.anew:.4f} s anew; a product {1e3 * costs.start:.1f} ms and "
        f"{1e3 * costs.task:.1f} ms a worker, {costs.hops:.1f} messages one after another; the client "
        f"{1e3 * costs.client:.1f} ms\n"
        f"a vector {costs.vector / 1e6:.3g} MB, a flow {costs.flow / 2**20:.3g} MiB, {options.memory:g} GiB a worker, "
        f"{options.bandwidth:g} GB/s, {1e3 * options.latency:g} ms",
        flush=True,
    )
    check(measured, costs)
    table(costs, options)


if __name__ == "__main__":
    main()
