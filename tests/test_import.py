"""What `import kpref` costs: nothing that compiles or draws is loaded with it, and its names are there all the same.

And what imports what: data flows from left to right through the package, and imports point left.
"""

import ast
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kpref

ROOT = Path(kpref.__file__).parent
FILES = {
    ".".join(("kpref", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}
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


def inside(name):
    """The module of kpref that a dotted name is, or is in; None for names of other packages."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


@cache
def imports(module, in_functions):
    """Modules that one module of kpref imports, for type checking too, and within functions where that is asked for."""
    functions = () if in_functions else (ast.FunctionDef, ast.AsyncFunctionDef)
    found, nodes = set(), [ast.parse(FILES[module].read_text())]
    while nodes:
        node = nodes.pop()
        nodes += [child for child in ast.iter_child_nodes(node) if not isinstance(child, functions)]
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import, which this test does not follow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph(name_of):
    """What imports what when kpref is imported; `name_of` a module is the node that it belongs to."""
    edges = {name_of(module): set() for module in FILES}
    for module in FILES:
        targets = {name_of(target) for target in map(inside, imports(module, in_functions=False)) if target}
        edges[name_of(module)] |= targets - {name_of(module)}
    return edges


@pytest.mark.parametrize("parts", [None, 2], ids=["modules", "packages and modules of the top level"])
def test_imports_make_no_cycle(parts):
    edges = graph(lambda module: ".".join(module.split(".")[:parts]))
    assert len(edges) > 20
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("package", ["oracle", "spectra", "analysis", "plots"])
def test_models_know_nothing_of_what_is_made_of_them(package):
    wanted = f"kpref.{package}"
    for module in FILES:
        if module.startswith("kpref.models"):
            found = {name for name in imports(module, in_functions=True) if f"{name}.".startswith(f"{wanted}.")}
            assert not found, f"{module} imports {found}"


def test_command_lines_are_read_by_the_commands_alone():
    readers = {module for module in FILES if "argparse" in imports(module, in_functions=True)}
    assert {module for module in readers if not module.startswith("kpref.commands.")} == {
        "kpref.cli",
        "kpref._arguments",
    }


def test_no_two_files_have_one_name():
    names = Counter(file.name for file in FILES.values() if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_without_a_compiler_it_says_so():
    code = "import kpref; kpref.Flow(kpref.models.GRU.init(2, 3, seed=0), [[[0.0, 0.0]]])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=60,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
    )
    assert done.returncode == 1
    assert "switched off: start Python without it" in done.stderr.splitlines()[-1]
