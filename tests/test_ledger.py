"""The ledger of claims: every script of it has an entry, and the cheapest come out as they must."""

import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "reproduce"
SCRIPTS = sorted(file.stem for file in FOLDER.glob("[!_]*.py") if file.stem != "entry")


@pytest.fixture(scope="module")
def ledger():
    """The script without an ending, and the entries beside it, whose modules nobody else shall find."""
    path, before = sys.path[:], set(sys.modules)
    loader = SourceFileLoader("ledger", str(FOLDER / "ledger"))
    module = module_from_spec(spec_from_loader("ledger", loader))
    loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


def test_there_are_twenty_entries_or_more(ledger):
    assert ledger.names() == SCRIPTS
    assert len(SCRIPTS) >= 20


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_an_entry(ledger, name):
    module = import_module(name)
    assert callable(module.find)
    texts = [getattr(module.ENTRY, field) for field in ("title", "source", "claim", "setting", "reports", "quantity")]
    assert all(isinstance(text, str) and text for text in texts)


def test_cheap_entries_find_what_algebra_says(ledger, tmp_path, capsys):
    ledger.main(["scalar_gain", "linear_rnn_inverse", "--figures", str(tmp_path)])
    shown = capsys.readouterr().out.splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[6] for line in shown[2:4]}
    assert rows == {"h' = g h": "yes", "(P^T)^-1 of a linear network": "**no**"}
    assert shown[-1].startswith("2 entries, 1 agree")
    assert (tmp_path / "ledger.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("way", ["gradient descent", "Shampoo"])
def test_students_of_planted_fixed_points_train(ledger, monkeypatch, way):
    """A short training of a small student: what the entry hands to `kpref.train` is taken."""
    module = import_module("planted_fixed_points")
    for name, value in {"UNITS": 6, "TRIALS": 3, "STEPS": 2}.items():
        monkeypatch.setattr(module, name, value)
    loss, _ = module.trained(2, way, 0.02, 0)
    assert 0 < loss < 1  # of that before two steps downhill


def test_unknown_entries_are_told(ledger, capsys):
    with pytest.raises(SystemExit):
        ledger.main(["nothing"])
    assert "no entry is called 'nothing'" in capsys.readouterr().err
