"""The leading eigenpairs of the NTK of a checkpoint, by workers of a SLURM cluster; what the job scripts here run.

    python eigenpairs.py jobqueue CHECKPOINT TRIALS OUTPUT.npz --workers 8     submits jobs of workers (dask-jobqueue)
    mpirun -n 10 python eigenpairs.py mpi CHECKPOINT TRIALS OUTPUT.npz         is a job itself: two ranks and 8 workers

TRIALS is the path of an npz file, a folder of npy files or a Zarr store (`kpref.distributed.ShardedFlow`); it, the
checkpoint and the output must lead to the same files from every node.

Threads
    One thread for tasks a worker, and one each for kpref, Numba and BLAS (`kpref.distributed.WORKER_ENVIRONMENT`): as
    many workers as cores.
Memory
    ``--memory`` for each worker. Two fifths of it keep flows between products, what does not fit is run anew each time:
    more workers are faster than in proportion until all is kept.
Security
    Whoever reaches the scheduler can run code as you. The loopback interface is the default, and serves one node. Any
    other interface is refused without TLS, which Dask's own settings turn on: ``distributed.comm.require-encryption``
    and ``distributed.comm.tls`` in ``~/.config/dask``, or DASK_DISTRIBUTED__COMM__... in the environment. There is no
    dashboard.
Size
    As many workers as asked for, rather than an adaptive number: whenever one comes or goes shards are placed anew.
Lifetimes
    Workers that SLURM kills take their results with them. ``--lifetime`` lets each end by itself before its job does,
    and at another time than the others, within ``--stagger``; its shards go to those that are left.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import dask
import numpy as np
from distributed import Client

import kpref
from kpref._archives import replacing
from kpref.distributed import WORKER_ENVIRONMENT, ShardedFlow

#: Seconds until the workers asked for must be there: jobs wait in queues.
PATIENCE = 24 * 3600


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cluster", choices=("jobqueue", "mpi"))
    for name in ("checkpoint", "trials", "output"):
        parser.add_argument(name)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--shard", type=int, help="trials of a shard; results depend on it, to the last bits")
    parser.add_argument("--tol", type=float, default=1e-8, help="residual over the largest eigenvalue")
    parser.add_argument("--memory", default="4GiB", help="of each worker")
    parser.add_argument("--interface", default="lo", help="network interface; others than lo need TLS")
    parser.add_argument("--local", help="a folder of each node's own disk, for what workers move out of memory")
    alone = parser.add_argument_group("jobqueue")
    alone.add_argument("--workers", type=int, default=8)
    alone.add_argument("--a-job", type=int, default=1, metavar="N", help="workers of one job, on one node")
    alone.add_argument("--walltime", default="04:00:00", help="of the jobs of workers")
    alone.add_argument("--lifetime", default="225m", help="of a worker; less than the walltime")
    alone.add_argument("--stagger", default="10m", help="by which lifetimes differ")
    alone.add_argument("--queue")
    options = parser.parse_args()
    if options.interface != "lo" and not dask.config.get("distributed.comm.require-encryption"):
        parser.error(
            f"the interface {options.interface} needs TLS: set distributed.comm.require-encryption and "
            "distributed.comm.tls in Dask's configuration"
        )
    return options


def protocol() -> str:
    """That of Dask's settings."""
    return "tls" if dask.config.get("distributed.comm.require-encryption") else "tcp"


@contextmanager
def jobs(options: argparse.Namespace) -> Iterator[Client]:
    """Workers in jobs that this process submits, and that end with it."""
    number, rest = divmod(options.workers, options.a_job)
    if rest:
        raise SystemExit(f"--workers must be a multiple of --a-job; got {options.workers} and {options.a_job}")
    limit = dask.utils.parse_bytes(options.memory)
    cluster = import_module("dask_jobqueue").SLURMCluster(
        cores=options.a_job, processes=options.a_job, memory=f"{options.a_job * limit}B", queue=options.queue,
        walltime=options.walltime, interface=options.interface, protocol=f"{protocol()}://",
        local_directory=options.local, job_script_prologue=[f"export {name}={value}" for name, value in environment()],
        worker_extra_args=["--lifetime", options.lifetime, "--lifetime-stagger", options.stagger],
        scheduler_options={"dashboard": False},
    )  # fmt: skip
    with cluster, Client(cluster, direct_to_workers=True) as client:
        cluster.scale(jobs=number)
        client.wait_for_workers(options.workers, timeout=PATIENCE)
        yield client


@contextmanager
def ranks(options: argparse.Namespace) -> Iterator[Client]:
    """Workers in the ranks of this MPI job: the first is the scheduler, the second goes on here, the others work."""
    import_module("dask_mpi").initialize(
        interface=options.interface, nthreads=1, memory_limit=options.memory, local_directory=options.local,
        dashboard=False, protocol=f"{protocol()}://",
    )  # fmt: skip
    workers = import_module("mpi4py.MPI").COMM_WORLD.Get_size() - 2
    with Client(direct_to_workers=True) as client:
        client.wait_for_workers(workers, timeout=PATIENCE)
        yield client


def environment() -> Iterator[tuple[str, str]]:
    """Variables of workers, which must be there before they start."""
    yield from WORKER_ENVIRONMENT.items()


def main() -> None:
    """Find the pairs, and write them wholly or not at all."""
    options = arguments()
    with (jobs if options.cluster == "jobqueue" else ranks)(options) as client:
        model, _ = kpref.load_checkpoint(options.checkpoint)
        flow = ShardedFlow(model, options.trials, client, options.shard)
        print(f"{flow} on {len(client.nthreads())} workers", flush=True)
        done = 0

        def progress(products: int) -> None:
            nonlocal done
            done += products
            print(f"  {done} products", flush=True)

        pairs = flow.eigh(options.pairs, tol=options.tol, progress=progress)
        found: dict[str, Any] = {"values": pairs.values, "vectors": pairs.vectors, "residuals": pairs.residuals}
        with replacing(options.output) as file:
            np.savez(file, **found)
    print(*(f"{value:.12g}" for value in pairs.values))


if __name__ == "__main__":
    main()
