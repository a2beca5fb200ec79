"""The page and the files of a report: what a reader must find, whatever the network, the trials and the names."""

import csv
import hashlib
import io
import json
import re
import time
import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
from matplotlib.figure import Figure

from kpref import Flow, Readout, Trials, __version__, cli, fixed_points, save_checkpoint
from kpref.analysis import numbers
from kpref.analysis.effort import DEFAULT, FAST
from kpref.analysis.exhibits import Panel, exhibit, with_own_names
from kpref.analysis.figures import draw_exhibits
from kpref.analysis.numbers import analyze_checkpoint
from kpref.analysis.quantities import Quantity
from kpref.analysis.report import render
from kpref.analysis.report_files import FIGURE_FORMATS, report_files
from kpref.analysis.runs import until_end
from kpref.analysis.settings import Objective
from kpref.analysis.study import Study, compare_all
from kpref.analysis.tables import quantity_table
from kpref.analysis.wording import number
from kpref.models import GRU, RNN, UserMap

pytestmark = pytest.mark.usefixtures("coarse_pictures")

B, T, N_IN, H, N_OUT = 4, 6, 2, 4, 2
RNG = np.random.default_rng(5)
INPUTS = RNG.normal(size=(B, T, N_IN))
TARGETS = RNG.normal(size=(B, T, N_OUT))
READOUT = Readout(RNG.normal(size=(N_OUT, H)))
NAMES = ("模型_" + "lang_" * 30 + "vorher", "模型_" + "lang_" * 30 + "nachher")


def study_of(models, trials, names=("before", "after"), loss="mse"):
    objective = Objective(loss, "all")
    analyses = tuple(
        analyze_checkpoint(name, model, READOUT, trials, objective, modes=3)
        for name, model in zip(names, models, strict=False)
    )
    return Study(analyses, compare_all(analyses), trials, objective, "mean", None, {"seed": "0"}, ("A note.",))


@pytest.fixture(scope="module")
def study():
    return study_of([GRU.init(N_IN, H, seed=seed) for seed in (0, 1)], Trials(INPUTS, TARGETS), NAMES)


@pytest.fixture(scope="module")
def exhibits(study):
    return draw_exhibits(study)


@pytest.fixture(scope="module")
def files(study, exhibits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: exhibits)
        return report_files(study, time.monotonic(), lambda _: None)


@pytest.fixture(scope="module")
def page(files):
    return files["report.html"].decode()


def test_files(files):
    index = json.loads(files["metrics.json"])
    assert sorted(files) == index["files"]
    assert "modes.npz" not in files
    assert (index["schema"], index["version"]) == (1, __version__)
    assert set(index["figures"]) == {name for name in files if name.endswith(".png")}
    # Names that differ only where a file name cannot, and that are too long for one: each figure is there all the same.
    assert len([name for name in files if name.startswith("modes_")]) == 2 * 5
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) for name in files)


def test_contents_lead_to_every_section(page):
    sections = re.findall(r'<(?:section|footer) id="(\w+)"', page)
    linked = re.findall(r'<a href="#(\w+)">', page)
    assert [key for key in sections if key != "findings"] == linked
    assert {"outputs", "modes", "dimensions", "check", "provenance"} <= set(linked)


def test_fixed_points_have_a_section(study, files, page):
    """By the search alone: the same points, in the picture, the table and the numbers."""
    section = page.split('<section id="points">')[1].split("</section>")[0]
    assert section.count("<img ") == section.count("<table>") == 2
    for analysis, kept in zip(study.analyses, json.loads(files["metrics.json"])["checkpoints"], strict=True):
        wanted = fixed_points(analysis.flow.model, starts=analysis.flow, n_starts=32, max_iterations=50)
        assert len(wanted.starts) == B * T
        assert np.array_equal(analysis.points.points, wanted.points)
        assert kept["points"]["states"] == wanted.points.tolist()
        assert kept["points"]["kinds"] == wanted.kinds
        for kind, q in zip(wanted.kinds, wanted.q, strict=True):
            assert f">{kind}<" in section
            assert number(float(q), 2) in section


@pytest.mark.parametrize("effort, units", [(FAST, 4), (DEFAULT, 600)])
def test_fixed_points_are_left_out_of_a_first_look_and_of_wide_networks(effort, units):
    flow = Flow(GRU.init(N_IN, units, seed=0), INPUTS)
    assert numbers._points(flow, effort, 0) is None


def test_a_network_that_overflows_without_input_has_no_points_to_show():
    model = UserMap(lambda z, x, p: p["w"] * np.cos(z) + np.log(x**2), 1, 1, parameters={"w": 0.5})
    assert numbers._points(Flow(model, np.ones((2, 3, 1))), DEFAULT, 0) is None


def test_panels_have_the_letters_that_captions_speak_of(page):
    for figure in re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL):
        letters = re.findall(r'<span class="letter">(\w+)</span>', figure)
        caption = figure.split("<figcaption>")[1]
        assert letters == sorted(letters)
        spoken = set(re.findall(r"\b([A-H])(?=: | to [A-H]: |\)| and be|, and C)", caption))
        assert spoken <= set(letters), caption
        assert "First:" not in caption
        for alt in re.findall(r'alt="([^"]*)"', figure):
            assert len(alt) > 10


def test_cells_know_their_columns(page):
    """So that a phone, which lists the cells of a row, can name each."""
    for table in re.findall(r"<table>.*?</table>", page, flags=re.DOTALL):
        heads = [re.sub("<[^>]+>", "", head) for head in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)]
        for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", table, flags=re.DOTALL):
            assert re.findall(r'data-label="([^"]*)"', row) == heads[1:]


def test_metrics_as_a_table(files):
    rows = list(csv.DictReader(io.StringIO(files["metrics.csv"].decode(), newline="")))
    assert [row["checkpoint"] for row in rows] == sorted((row["checkpoint"] for row in rows), key=NAMES.index)
    for name, checkpoint in zip(NAMES, json.loads(files["metrics.json"])["checkpoints"], strict=True):
        of_one = {row["key"]: row for row in rows if row["checkpoint"] == name}
        assert float(of_one["loss"]["value"]) == checkpoint["loss"]
        assert set(checkpoint["metrics"]) < set(of_one)
        for key, entry in checkpoint["metrics"].items():
            row = of_one[key]
            given = [row[column] for column in ("value", "standard_error", "interval_low", "interval_high")]
            assert [float(field) for field in given] == [entry["value"], entry["standard_error"], *entry["interval"]]
            assert row["how"] == entry["how"]


def test_intervals_and_the_error_of_trials_stand_beside_estimates(study, monkeypatch):
    quantity = Quantity(
        "effective_dimension_NTK", "dimension", "dimensions", 3.781, 0.04, "estimated", (3.702, 3.864), 0.52, 1234
    )
    monkeypatch.setattr("kpref.analysis.tables.quantities", lambda analysis: (quantity,))
    (row,) = re.findall(r'<tr><th scope="row">.*?</tr>', quantity_table(study, "dimensions"))
    assert row.count("3.781 <small>(3.702 to 3.864)</small> <small>± 0.52 over trials</small>") == len(study.analyses)
    assert "estimated; to know it to ± 5 % would take about 1,200 products" in row


def test_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])
    save_checkpoint(tmp_path / "a.npz", GRU.init(N_IN, H, seed=0), READOUT)
    np.savez(tmp_path / "t.npz", inputs=INPUTS, targets=TARGETS)
    argv = ["analyze", tmp_path / "a.npz", "--trials", tmp_path / "t.npz", "--out", tmp_path / "out", "--modes", 2]
    assert cli.main(list(map(str, argv))) == 0
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["facts"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name in ("a.npz", "t.npz"):
        assert facts[f"SHA-256 of {tmp_path / name}"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert facts[f"SHA-256 of {tmp_path / name}"] in page
    made = datetime.strptime(facts["date"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert made <= datetime.now(UTC)
    assert f"kpref {__version__}" in facts["versions"]
    assert f"NumPy {np.__version__}" in facts["versions"]
    assert facts["seed"] == "0"
    assert facts["platform"]


STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", FIGURE_FORMATS)
def test_figures_in_any_format(study, exhibits, monkeypatch, kind):
    """The page shows them as PNG; the same picture is the same file."""
    some = exhibits[:1]
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: some)
    files = report_files(study, time.monotonic(), lambda _: None, figures=kind, save_modes=kind == "pdf")
    pictures = {name: content for name, content in files.items() if name.endswith(f".{kind}")}
    assert len(pictures) == sum(len(shown.panels) for shown in some)
    assert all(content.startswith(STARTS[kind]) for content in pictures.values())
    assert ("modes.npz" in files) == (kind == "pdf")
    page = files["report.html"].decode()
    assert page.count("data:image/png") == len(pictures)
    assert f"each figure as {kind.upper()}" in page
    panel = some[0].panels[0]
    assert panel.picture(kind) == pictures[f"{panel.name}.{kind}"]


# Networks and trials at the edge


def clean_exhibits(study):
    """All figures, drawn without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw_exhibits(study)


def test_silent_network():
    """A relu network none of whose units is ever active: every operator but P is zero."""
    model = RNN(-np.ones((H, N_IN)), np.zeros((H, H)), -np.ones(H), np.zeros(H), nonlinearity="relu")
    study = study_of([model], Trials(np.abs(INPUTS), TARGETS))
    assert not study.analyses[0].states.any()
    exhibits = clean_exhibits(study)
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", render(study, exhibits)), flags=re.IGNORECASE)
    modes = next(shown for shown in exhibits if shown.section == "modes")
    for panel in modes.panels[:-1]:
        assert "all zero" in [text.get_text() for text in axes_of(panel).texts]
    assert {shown.section for shown in exhibits} >= {"outputs", "modes", "spectra", "dimensions", "stability", "check"}


def test_smallest_of_everything():
    """One trial of one step, one input, one unit, one output, one mode."""
    model, readout = RNN.init(1, 1, seed=0), Readout(np.ones((1, 1)))
    trials, objective = Trials(np.ones((1, 1, 1)), np.ones((1, 1, 1))), Objective("mse", "all")
    analysis = analyze_checkpoint("", model, readout, trials, objective, modes=1)
    clean_exhibits(Study((analysis,), (), trials, objective, "mean", None, {}, ()))


def test_equal_trials_with_labels():
    model = GRU.init(N_IN, H, seed=0)
    trials = Trials(np.ones((B, T, N_IN)), labels=np.array([0, 1, 1, 0]))
    exhibits = clean_exhibits(study_of([model], trials, loss="cross_entropy"))
    assert any("probability" in panel.description for shown in exhibits for panel in shown.panels)


def test_steps_after_the_end_are_not_drawn():
    trials = Trials(INPUTS, TARGETS, lengths=np.array([6, 3, 4, 6]))
    np.testing.assert_array_equal(np.isnan(until_end(np.zeros((B, T)), trials)).sum(axis=1), [0, 3, 2, 0])
    assert np.isnan(until_end(np.zeros((2, B, T, H)), trials, axis=1)).sum() == 2 * H * 5
    study = study_of([GRU.init(N_IN, H, seed=0)], trials)
    exhibits = {shown.section: shown for shown in clean_exhibits(study)}
    assert "Lines end where their trials end." in exhibits["modes"].caption
    ax = axes_of(exhibits["modes"].panels[0])
    ends = [np.isfinite(segment[:, 1]).sum() for segment in ax.collections[0].get_segments()]
    assert sorted(ends) == [3, 4, 6, 6]


def axes_of(panel):
    ax = Figure().add_subplot()
    panel.draw(ax)
    return ax


def test_the_head_of_the_page_names_lengths_and_masks(monkeypatch):
    monkeypatch.setattr(Panel, "picture", lambda panel, kind: b"not drawn")
    mask = np.ones((B, T))
    mask[:, :2] = 0.0
    study = study_of([RNN.init(N_IN, H, seed=0)], Trials(INPUTS, TARGETS, mask=mask))
    page = render(study, draw_exhibits(study))
    head = page.split("<header>")[1].split("</header>")[0]
    assert "4 trials of 6 steps" in head
    assert "scored steps only (16 of 24, by the mask)" in head
    assert "tanh" in head
    assert "A note." in page.split('id="findings"')[1].split("</section>")[0]
    assert "Grey: steps that the loss does not count." in page


def test_names_of_files_differ_on_every_file_system():
    panels = [Panel(name, "", lambda ax: None) for name in ("a", "A", "a/b", "a\\b", "x" * 300, "x" * 299 + "x", "模")]
    (named,) = with_own_names([exhibit("modes", "", "", panels)])
    names = [panel.name for panel in named.panels]
    assert len({name.lower() for name in names}) == len(panels)
    assert names[0] == "a"
    assert max(map(len, names)) < 90


def test_more_panels_than_letters():
    panels = [Panel(str(number), "", lambda ax: None) for number in range(30)]
    assert [panel.letter for panel in exhibit("modes", "", "", panels).panels][24:28] == ["Y", "Z", "AA", "AB"]
