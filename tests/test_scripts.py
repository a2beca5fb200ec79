"""Scripts find what they import, from whatever folder they are started."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"

#: Packages that a script may need beyond an installation: it is then not tried any further.
OPTIONAL = ("dask", "diffrax", "distributed", "jax", "primme", "torch", "torchdiffeq")

# Each begins with the path that Python gives to a script, and with no module of another script's or of the tests.
RUNNER = """
import json, os, runpy, sys
folder, optional, failed = sys.argv[1], sys.argv[2].split(), {}
ours = tuple(os.path.join(os.path.dirname(folder), name, "") for name in ("scripts", "tests"))
for name in sorted(os.listdir(folder)):
    if name.endswith(".py"):
        before, modules = sys.path[:], set(sys.modules)
        sys.path[0] = folder
        try:
            runpy.run_path(os.path.join(folder, name), run_name="imported")
        except ImportError as error:
            if (error.name or "").split(".")[0] not in optional:
                failed[name] = str(error)
        sys.path[:] = before
        for module in set(sys.modules) - modules:
            if (getattr(sys.modules[module], "__file__", None) or "").startswith(ours):
                del sys.modules[module]
print(json.dumps(failed))
"""


def test_scripts_find_what_they_import(tmp_path):
    command = [sys.executable, "-c", RUNNER, str(SCRIPTS), " ".join(OPTIONAL)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == {}
