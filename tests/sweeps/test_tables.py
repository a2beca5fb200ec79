"""Tables of sweeps in Parquet are those in CSV, and figures show the numbers of the table."""

import csv
import itertools
import sys

import matplotlib.colors
import pytest

from kpref import cli
from kpref.sweeps import read_grid, sweep
from kpref.sweeps.sweep_figure import draw_sweep
from kpref.sweeps.sweep_folder import SweepFolder

GRID = """
metrics = ["loss", "trace_NTK"]
[grid]
model = ["gru", "rnn"]
units = [2, 4, 100]
seed = [0, 1]
trainable = [["weight_hh"], ["weight_hh", "weight_ih"]]
[fixed]
task = "flip_flop"
steps = 0
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    return read_grid(tmp_path / "grid.toml")


def number(cell):
    return cell["units"] / 7 + cell["seed"] + 10 * len(cell["trainable"]) + (cell["model"] == "rnn")


@pytest.fixture
def place(grid, tmp_path):
    """All cells but the first are over; those of 100 units have failed."""
    found = SweepFolder(tmp_path / "out", grid)
    with found.opened():
        for cell in itertools.islice(grid.cells(), 1, None):
            failed = {"failed": "raised", "error": 'so, "it" is'}
            metrics = {"metrics": {"loss": [number(cell), 0.0], "trace_NTK": [None, None]}}
            found.commit(cell, failed if cell["units"] == 100 else metrics)
    return found


def test_parquet_holds_what_csv_does_with_types(place):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = place.write_table(parquet=True)
    table = parquet.read_table(file.with_suffix(".parquet"))
    assert [str(field.type) for field in table.schema] == [
        "string", "int64", "int64", "string", "double", "double", "double", "string", "string"
    ]  # fmt: skip
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table.to_pylist()]
    assert as_text == rows
    assert rows[0]["failed"] == "missing"
    assert rows[1]["trainable"] == "weight_hh weight_ih"


def test_parquet_without_its_package_is_refused_before_anything_is_written(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"kpref\[parquet\]"):
        sweep(grid, tmp_path / "new", parquet=True)
    assert not (tmp_path / "new").exists()


def test_curves_are_means_over_seeds_for_each_of_the_other_settings(place, grid):
    loss, trace = draw_sweep(grid, place.table()).axes
    assert loss.get_xlabel() == "units"
    assert loss.get_xscale() == "log"
    handles, labels = loss.get_legend_handles_labels()
    assert labels == ["gru, weight_hh weight_ih", "gru, weight_hh", "rnn, weight_hh", "rnn, weight_hh weight_ih"]
    line = handles[labels.index("rnn, weight_hh")][0]
    assert list(line.get_xdata()) == [2, 4]
    assert list(line.get_ydata()) == pytest.approx([2 / 7 + 11.5, 4 / 7 + 11.5])
    (bar,) = handles[labels.index("rnn, weight_hh")][2]
    assert [list(segment[:, 1]) for segment in bar.get_segments()] == [
        pytest.approx([2 / 7 + 11, 2 / 7 + 12]), pytest.approx([4 / 7 + 11, 4 / 7 + 12])
    ]  # fmt: skip
    assert len({matplotlib.colors.to_hex(handle[0].get_color()) for handle in handles}) == 4
    # Of the cell that is missing the other seed stands alone.
    alone = handles[labels.index("gru, weight_hh")][0]
    assert alone.get_ydata()[0] == pytest.approx(2 / 7 + 11)
    assert [text.get_text() for text in trace.texts] == ["no cell has a number"]


def test_words_on_the_axis_stand_in_the_order_of_the_grid(tmp_path):
    (tmp_path / "grid.toml").write_text(
        'metrics = ["loss"]\n[grid]\nmodel = ["rnn", "gru"]\n[fixed]\ntask = "flip_flop"\nsteps = 0\n'
    )
    grid = read_grid(tmp_path / "grid.toml")
    place = SweepFolder(tmp_path / "out", grid)
    with place.opened():
        for cell, value in zip(grid.cells(), (3.0, 1.0), strict=True):
            place.commit(cell, {"metrics": {"loss": [value, 0.0]}})
    (ax,) = draw_sweep(grid, place.table()).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["rnn", "gru"]
    assert list(ax.containers[0][0].get_ydata()) == [3.0, 1.0]


def test_the_command_writes_all(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "grid.toml").write_text(
        'metrics = ["loss"]\n[grid]\ngain = [0.5]\n'
        '[fixed]\ntask = "flip_flop"\nunits = 2\nsteps = 1\nfresh_trials = 2\n'
    )
    out = tmp_path / "out"
    assert cli.main(["sweep", str(tmp_path / "grid.toml"), "-o", str(out), "--parquet", "--figure", "--quiet"]) == 0
    assert parquet.read_table(out / "table.parquet").num_rows == 1
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    words = "train --task flip_flop --units 2 --steps 3 --batch-size 2 --parquet --quiet -o".split()
    assert cli.main([*words, str(tmp_path / "run")]) == 0
    metrics = parquet.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in metrics] == rows
    assert len(rows) == 3
