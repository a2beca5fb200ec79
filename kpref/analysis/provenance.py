"""When, where, with what and from which bytes a report was made."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numba
import numpy
import scipy

from kpref._version import __version__

__all__ = ["circumstances", "fingerprints"]


def circumstances() -> dict[str, str]:
    """Date and time, versions and platform, for the facts of a study."""
    versions = {
        "Python": platform.python_version(),
        "NumPy": numpy.__version__,
        "SciPy": scipy.__version__,
        "Numba": numba.__version__,
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "versions": ", ".join([f"kpref {__version__}", *(f"{name} {version}" for name, version in versions.items())]),
        "platform": f"{platform.platform(terse=True)}, {platform.machine()}",
    }


def fingerprints(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each file, for the facts of a study."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[f"SHA-256 of {path}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
