"""The leading eigenpairs of the NTK of more trials than memory holds, with the memory that may be used enforced.

Inputs are written to npy files, or a Zarr store; states, linearisations and products are made shard by shard
(`kpref.distributed`). The address space of the process is limited by the kernel (RLIMIT_AS), libraries and compiled
code included: what does not fit ends in a MemoryError.

    python scripts/out_of_core.py --trials 5000 --steps 100 --states 256 --pairs 5 --memory 4
    python scripts/out_of_core.py --trials 20000 --zarr [--products 1]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from kpref import get_num_threads
from kpref.distributed import ShardedFlow
from kpref.models import GRU

N_INPUTS = 3
#: Products to five pairs at a tolerance of 1e-6, measured by this script with its own sizes.
EXPECTED = 61


def main() -> None:
    """Limit the memory, write the inputs, find the pairs, and say what it took."""
    options = arguments()
    resource.setrlimit(resource.RLIMIT_AS, (int(options.memory * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), options)
        model = GRU.init(N_INPUTS, options.states, seed=0)
        flow = ShardedFlow(model, folder, shard_size=options.shard, keep=options.keep * 2**30)
        describe(options, flow)
        report(flow, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"trials": 5000, "steps": 100, "states": 256, "pairs": 5, "shard": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of address space")
    parser.add_argument("--keep", type=float, default=1.0, help="GiB for flows that are kept between products")
    parser.add_argument("--tol", type=float, default=1e-6, help="residual over the largest eigenvalue")
    parser.add_argument("--zarr", action="store_true", help="inputs in a Zarr store, a chunk for each shard")
    parser.add_argument("--products", type=int, help="stop after so many, and say what all would take")
    return parser.parse_args()


def write_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Smooth random inputs, of which a thousand trials at a time are in memory."""
    trials, steps = options.trials, options.steps
    shape, generator = (trials, steps, N_INPUTS), np.random.default_rng(0)
    if options.zarr:
        group = import_module("zarr").open_group(folder, mode="w")
        file = group.create_array("inputs", shape=shape, dtype="f8", chunks=(options.shard, steps, N_INPUTS))
    else:
        file = np.lib.format.open_memmap(folder / "inputs.npy", "w+", np.float64, shape)
    for start in range(0, trials, 1000):
        steps_of = generator.standard_normal((min(1000, trials - start), steps, N_INPUTS))
        file[start : start + 1000] = np.cumsum(steps_of, axis=1) / np.sqrt(steps)


def describe(options: argparse.Namespace, flow: ShardedFlow) -> None:
    """The problem, and what its arrays would take at once."""
    points, states = options.trials * options.steps, options.states
    print(flow)
    print(f"states {8 * points * states / 1e9:.3g} GB, stored Jacobians {8 * points * states**2 / 1e9:.3g} GB")
    print(f"address space {options.memory:g} GiB, of which {options.keep:g} for flows; {get_num_threads()} threads")


def report(flow: ShardedFlow, options: argparse.Namespace) -> None:
    """Eigenpairs, or a few products and what they would take."""
    begun, used, done = time.perf_counter(), time.process_time(), 0

    def progress(products: int) -> None:
        nonlocal done
        done += products
        print(f"  {done} products, {time.perf_counter() - begun:.0f} s", flush=True)

    if options.products is not None:
        vector = np.random.default_rng(1).standard_normal(flow.gram.shape[0])
        for _ in range(options.products):
            vector = flow.gram(vector / np.linalg.norm(vector))
            progress(1)
    else:
        pairs = flow.eigh(options.pairs, tol=options.tol, copies=False, progress=progress)
        print(f"{pairs.n_products} products, {pairs.n_single} of them in float32")
        print("eigenvalues", pairs.values)
        print("residuals  ", pairs.residuals)
        first = next(flow.modes(pairs))
        print(f"modes of the first shard {first.shape}")
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:.0f} s, {seconds / done:.1f} s a product, {used / done:.1f} s of all cores")
    if options.products is not None:
        hours = EXPECTED * seconds / done / 3600
        print(f"{hours:.1f} h for the {EXPECTED} products that 5 pairs of 5,000 trials took")
    print(f"largest resident memory {resident:.2f} GiB")


if __name__ == "__main__":
    main()
