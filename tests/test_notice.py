"""What is said while the compiler runs."""

import time

import pytest

from kpref.compiled import notice
from kpref.compiled.notice import CompilationNotice


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(notice, "watched", lambda stream: True)


def test_what_takes_long_is_said_once(watched, capsys):
    listener = CompilationNotice(patience=0.02)
    for _ in range(2):
        listener.on_start(None)
        listener.on_start(None)  # one inside the other
        listener.on_end(None)
        time.sleep(0.2)
        listener.on_end(None)
    assert capsys.readouterr().err == "kpref: compiling for this machine, which takes up to a minute, once\n"


def test_short_compilations_add_up(watched, capsys):
    listener = CompilationNotice(patience=0.3)
    for _ in range(3):
        listener.on_start(None)
        time.sleep(0.2)
        listener.on_end(None)
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_said_where_nobody_looks_on(capsys):
    listener = CompilationNotice(patience=0.01)
    listener.on_start(None)
    time.sleep(0.1)
    listener.on_end(None)
    assert capsys.readouterr().err == ""
