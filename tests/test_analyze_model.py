"""`kpref analyze --model`: what the factory makes is what is analyzed, however its derivatives are known."""

import json
import sys

import numpy as np
import pytest

from kpref import Flow, Readout, Trials, analyze, cli
from kpref.models import GRU, UserField, UserMap

pytestmark = pytest.mark.usefixtures("blank_pictures")

MODULE = """
import numpy as np

import kpref
from kpref.models import UserMap

SCALE = __import__("scales").SCALE  # a file beside this one


def network(z, x, p):
    return np.tanh(p["k"] * z @ p["W"].T + x)


def gain(z, x, p):
    return 1 - network(z, x, p) ** 2


PRODUCTS = {
    "state_product": lambda z, x, p, v: gain(z, x, p) * (p["k"] * v @ p["W"].T),
    "state_transpose": lambda z, x, p, w: p["k"] * (gain(z, x, p) * w) @ p["W"],
    "parameter_product": lambda z, x, p, c: gain(z, x, p) * (z @ (c["k"] * p["W"] + p["k"] * c["W"]).T),
    "parameter_transpose": lambda z, x, p, w: {
        "k": np.sum(gain(z, x, p) * w * (z @ p["W"].T)),
        "W": p["k"] * (gain(z, x, p) * w).T @ z,
    },
}


def made(**products):
    rng = np.random.default_rng(0)
    parameters = {"k": 0.9, "W": SCALE * rng.normal(size=(3, 3))}
    model = UserMap(network, n_states=3, n_inputs=3, parameters=parameters, **products)
    readout = kpref.Readout(rng.normal(size=(2, 3)), np.zeros(2))
    trials = kpref.Trials(inputs=rng.normal(size=(4, 5, 3)), targets=rng.normal(size=(4, 5, 2)))
    return model, readout, trials, rng.normal(size=3)


def differenced():
    return made()


def by_products():
    return made(**PRODUCTS)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module and what it imports; afterwards nothing of it is left to other tests."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own_model.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "mine" / "scales.py").write_text("SCALE = 0.5\n", encoding="utf-8")
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])
    monkeypatch.setattr("sys.path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("own_model", "scales") or name.startswith("_model_in_"):
            del sys.modules[name]


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def numbers(found):
    checkpoint = found["checkpoints"][0]
    return [
        checkpoint["loss"],
        checkpoint["loss_rate"],
        *(value for name in ("K", "PP*", "NTK") for value in checkpoint["eigenvalues"][name]["values"]),
    ]


@pytest.mark.parametrize("spec", ["own_model:{}", "../mine/own_model.py:{}"], ids=["module", "file"])
def test_numbers_are_those_of_the_model_in_python(spec, folder, monkeypatch):
    """K mixes units here, since all of them share a trained factor; and the initial states are not zero."""
    monkeypatch.chdir(folder / "mine")
    outs = [folder / name for name in ("differenced", "by_products")]
    for out in outs:
        assert (
            cli.main(["analyze", "--model", spec.format(out.name), "--out", str(out), "--modes", "3", "--quiet"]) == 0
        )
    first, second = map(metrics_of, outs)
    np.testing.assert_allclose(numbers(first), numbers(second), rtol=1e-9)
    module = sys.modules.get("own_model") or sys.modules["_model_in_own_model"]
    model, readout, trials, z0 = module.differenced()
    flow = Flow(model, trials, z0)
    root = np.sqrt(np.repeat(flow.space.mu, 3))[:, None]
    K = root * flow.K.to_dense() / root.T
    np.testing.assert_allclose(first["checkpoints"][0]["eigenvalues"]["K"]["values"], np.linalg.eigvalsh(K)[:-4:-1])
    assert first["checkpoints"][0]["loss"] == pytest.approx(flow.gradient_flow(readout, trials.targets).loss, rel=1e-13)
    facts = first["facts"]
    assert facts["checkpoints"] == spec.format("differenced")
    assert facts["trials"].startswith(f"made by {spec.format('differenced')} (4 trials of 5 steps")
    assert facts["initial states"] == "given"
    assert any(key.startswith("SHA-256 of ") and key.endswith("own_model.py") for key in facts)
    assert sorted(path.name for path in (folder / "mine").iterdir()) == ["own_model.py", "scales.py"]


def test_trials_of_a_file_come_first(folder, monkeypatch):
    monkeypatch.chdir(folder / "mine")
    np.savez(folder / "few.npz", inputs=np.ones((2, 3, 3)))
    line = [
        "analyze",
        "--model",
        "own_model:differenced",
        "--trials",
        str(folder / "few.npz"),
        "--modes",
        "2",
        "--quiet",
    ]
    assert cli.main([*line, "--out", str(folder / "out")]) == 0
    found = metrics_of(folder / "out")
    assert found["checkpoints"][0]["shape"] == {"trials": 2, "steps": 3, "units": 3, "states": 3}
    assert "no targets" in " ".join(found["notes"]) or "neither targets" in " ".join(found["notes"])


def test_error_of_differences_is_told(folder):
    """Of a function that takes no complex numbers, as it is after the analysis; nothing where there is none."""
    rng = np.random.default_rng(0)
    trials = Trials(inputs=rng.normal(size=(3, 4, 2)), targets=np.zeros((3, 4, 1)))
    weight, readout = rng.normal(size=(2, 2)), Readout(np.ones((1, 2)), np.zeros(1))

    def rectified(z, x, p):
        return 0.5 * (z + np.abs(z)) @ p["W"].T + x

    model = UserMap(rectified, 2, 2, parameters={"W": weight})
    report = analyze((model, readout), trials, modes=2)
    (told,) = [note for note in report.study.notes if "central differences" in note]
    assert told == (
        "network: derivatives by the states are central differences, with an estimated error of up to "
        f"{model.derivative_error:.1g} of the largest entry."
    )
    assert report.passed
    smooth = UserField(lambda z, x, p: np.tanh(z) @ p["W"].T + x - z, 2, 2, parameters={"W": weight})
    assert smooth.remark == GRU.init(2, 3, seed=0).remark == ""
