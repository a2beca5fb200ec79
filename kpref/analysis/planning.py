"""What an analysis will take, told before it is begun: its memory, and a rough guess at its time.

Time is that of products with the operators, and a product with the NTK is one backward and one forward pass, of

    4 B n (p + j)

floating-point operations for B trials, n evaluations of the network in each of them, and p and j multiply-adds of a
product with A and J at one state (`kpref.models.Model.multiplications`). An analysis takes about as long as `PRODUCTS`
of them for each network, which was measured for a GRU of 128 units, and each of them `OVER_FLOOR` times as long as its
matrix products take at the speed at which this machine multiplies matrices now. Iterations converge faster for some
networks than for others: what comes out can be wrong by a factor of two or three.
"""

from __future__ import annotations

from dataclasses import dataclass

from kpref.analysis.request import Request, memory_needed
from kpref.integrate import get_tableau
from kpref.memory import available_memory
from kpref.threads import get_num_threads

__all__ = ["Plan", "make_plan"]

PRODUCTS = 300
OVER_FLOOR = 1.3
_START, _EACH = 4.0, 3.0  # seconds for imports, figures and the page, and for each network whatever its size


@dataclass(frozen=True)
class Plan:
    """What an analysis will take."""

    memory: float  # bytes
    available: int | None  # bytes that there are; None where the system does not say
    operations: float  # floating-point operations of all products
    rate: float  # floating-point operations per second of a matrix product on this machine now
    networks: int

    @property
    def seconds(self) -> float:
        """A rough guess."""
        return _START + _EACH * self.networks + OVER_FLOOR * self.operations / self.rate

    def __str__(self) -> str:
        room = "" if self.available is None else f" of {self.available / 2**30:.3g} GiB available"
        return (
            f"memory    {self.memory / 2**30:.3g} GiB{room}\n"
            f"time      about {_duration(self.seconds)}, or a third or three times that: {self.operations / 1e12:.3g} "
            f"Tflop of products at the {self.rate / 1e9:.3g} GFLOP/s measured now"
        )


def make_plan(request: Request) -> Plan:
    """Say what an analysis will take; measures, for a fraction of a second, how fast this machine multiplies."""
    from kpref.bench.timing import measure_rate

    operations = float(PRODUCTS * sum(_product_operations(request, index) for index in range(len(request.networks))))
    memory = memory_needed(request.networks, request.trials, request.modes, probes=request.effort.probes)
    rate = measure_rate("float64", get_num_threads())
    return Plan(memory, available_memory(), operations, rate, len(request.networks))


def _product_operations(request: Request, index: int) -> float:
    """Of one product with the NTK."""
    model, trials = request.networks[index].model, request.trials
    stages = 1 if request.integration is None else get_tableau(request.integration.method).stages
    return 4.0 * stages * trials.n_trials * trials.n_steps * sum(model.multiplications)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
