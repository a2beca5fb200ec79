"""The README as a newcomer uses it: each block is run as it stands, or says in a comment above it why it is not."""

import json
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kpref import cli

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")

BLOCK = re.compile(
    r"(?:<!-- not run[^:]*: (?P<why>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", flags=re.DOTALL | re.M
)
BLOCKS = [
    pytest.param(found, id=f"line {TEXT[: found.start('code')].count(chr(10))}") for found in BLOCK.finditer(TEXT)
]


def test_every_block_is_found():
    assert 2 * len(BLOCKS) == len(re.findall(r"^```", TEXT, flags=re.M))
    assert len(BLOCKS) >= 8


# Runs the files block.py of the folders that it is told, each there, and says what they raise. The pictures of whole
# reports, which other tests draw, would take most of the time.
RUNNER = """
import json, os, runpy, sys, traceback
from kpref.analysis.exhibits import Panel
Panel.picture = lambda panel, kind: b"not drawn"
raised = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    try:
        runpy.run_path("block.py", run_name="__main__")
    except BaseException:
        raised[folder] = traceback.format_exc()
sys.exit(json.dumps(raised))
"""


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    """What each block raises, by its code: in a process and empty folders where nothing of the clone is but kpref."""
    folders = {}
    for code in [block["code"] for (block,) in (p.values for p in BLOCKS) if not block["why"]]:
        folder = tmp_path_factory.mktemp("block")
        (folder / "block.py").write_text(code, encoding="utf-8")
        folders[code] = str(folder)
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(README.parent)}
    command = [sys.executable, "-c", RUNNER, *folders.values()]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(ran.stderr.splitlines()[-1])
    return {code: found.get(folder) for code, folder in folders.items()}


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs_as_it_stands(block, raised):
    if block["why"]:
        pytest.skip(block["why"])
    assert block["language"] == "python", "a block of another language must say why it is not run"
    assert raised[block["code"]] is None, raised[block["code"]]


def test_own_model_is_analyzed(tmp_path, monkeypatch, capsys):
    """The template of a model, under 40 lines, by the command below it, on few trials: all self-checks pass."""
    section = TEXT.split("## Your own model")[1].split("\n## ")[0]
    template, command = (block["code"] for block in BLOCK.finditer(section))
    name = re.match(r"# (\w+\.py)\n", template)[1]
    assert len(template.splitlines()) < 40
    (tmp_path / name).write_text(template, encoding="utf-8")
    program, *arguments = command.split()
    assert program == "kpref"
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--fast"]) == 0
    assert "self-checks passed" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").stat().st_size > 100_000
    assert sorted(os.listdir(tmp_path)) == [name, "report"]


def test_options_of_the_command_exist():
    """Every option that the README names is one of `kpref analyze`."""
    shown = subprocess.run(
        [sys.executable, "-m", "kpref", "analyze", "--help"],
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    own = set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout))
    section = TEXT.split("## Your own network")[1].split("## Ten lines")[0]
    assert set(re.findall(r"--[a-z][a-z0-9-]*", section)) <= own


def test_names_exist():
    """Every attribute of kpref that the README writes as code is there."""
    import kpref
    from kpref import plots

    names = set(re.findall(r"kpref\.([a-zA-Z_]+(?:\.[a-zA-Z_]+)*)", "\n".join(re.findall(r"`[^`\n]+`", TEXT))))
    for name in names:
        assert name.split(".")[0] in kpref.__all__, name  # at hand after `import kpref`
        assert pydoc.locate(f"kpref.{name}") is not None, name
    for name in re.findall(r"`(plot_\w+|shade_\w+)`", TEXT):
        assert name in plots.__all__


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://arxiv.org/") or (README.parent / target).exists(), target
    for script in re.findall(r"\bscripts/[\w.]+", TEXT):
        assert (README.parent / script).exists(), script
