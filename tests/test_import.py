"""What `import kpref` costs: nothing that compiles or draws is loaded with it, and its names are there all the same."""

import subprocess
import sys

import pytest

import kpref

HEAVY = ("numba", "llvmlite", "matplotlib", "torch", "jax", "scipy", "threadpoolctl", "tqdm", "safetensors")


def loaded_after(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import kpref").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["Flow", "models", "TrajectorySpace", "Trials", "Readout", "load_checkpoint"])
def test_first_use_of_a_name_compiles_nothing(name):
    assert loaded_after(f"import kpref; kpref.{name}").isdisjoint(("numba", "matplotlib", "torch", "jax"))


def test_a_flow_compiles_what_is_applied_and_no_more():
    code = """
import numpy as np, kpref
from kpref.kernels import program_sweeps
own = program_sweeps.__name__
compiled = {n: f for n, f in vars(program_sweeps).items() if hasattr(f, "signatures") and f.__module__ == own}
flow = kpref.Flow(kpref.models.GRU.init(2, 3, 0), np.ones((2, 3, 2)))
made = flow.P, flow.J, flow.K, flow.NTK
print(sum(len(function.signatures) for function in compiled.values()))
flow.P_inverse(flow.states)
print(len(compiled["_sensitivity"].signatures), sum(len(function.signatures) for function in compiled.values()) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=True)
    assert done.stdout == "0\n0 True\n"


def test_public_names():
    for name in kpref.__all__:
        assert getattr(kpref, name) is not None
    assert set(kpref.__all__) <= set(dir(kpref))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kpref.nonsense  # noqa: B018
