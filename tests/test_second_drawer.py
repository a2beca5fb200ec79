"""Pictures by two processes: the same bytes, and all of them, whatever becomes of the second one."""

import multiprocessing
import os
import time
import warnings

import pytest

from kpref.analysis.exhibits import Panel
from kpref.analysis.second_drawer import second_drawer

pytestmark = [
    pytest.mark.usefixtures("coarse_pictures"),
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"),
]
NUMBER = 4
HERE = os.getpid()


@pytest.fixture(scope="module")
def alone():
    return [panel.png for panel in panels()]


def panels(first=lambda: None, there=lambda: None):
    """Some pictures; the one that this process begins with calls `first`, each in another process calls `there`."""

    def draw(ax, index):
        if os.getpid() != HERE:
            there()
        elif index == 0:
            first()
        ax.plot([0, index], [1, 2])

    return [Panel(f"p{i}", "a line", lambda ax, i=i: draw(ax, i), (1.5, 1.5)) for i in range(NUMBER)]


def drawn(some):
    """Their pictures, and how many of them had come from the other process."""
    taken = 0
    with second_drawer(some) as take_over:
        for panel in some:
            take_over()
            taken += "png" in vars(panel)
            assert panel.png
    return [panel.png for panel in some], taken


def wait_for(path):
    until = time.monotonic() + 20
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.05)


def test_two_draw_the_same_pictures(alone, tmp_path):
    marks = tmp_path / "begun", tmp_path / "second"

    def there():  # at its second picture it has sent the first
        marks[int(marks[0].exists())].touch()

    pictures, taken = drawn(panels(lambda: wait_for(marks[1]), there))
    assert pictures == alone
    assert 1 <= taken < NUMBER
    assert not multiprocessing.active_children()


def _raise():
    raise MemoryError


@pytest.mark.parametrize(
    "there",
    [_raise, lambda: os._exit(3), lambda: warnings.warn("a glyph is missing", stacklevel=1), lambda: time.sleep(3600)],
)
def test_alone_where_the_other_fails(alone, there, capfd):
    pictures, taken = drawn(panels(there=there))
    assert pictures == alone
    assert taken == 0
    assert not multiprocessing.active_children()
    assert capfd.readouterr() == ("", "")


def test_no_process_to_be_had(alone, monkeypatch):
    def refused(self):
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "start", refused)
    pictures, taken = drawn(panels())
    assert (pictures, taken) == (alone, 0)


def test_an_error_of_a_picture_is_raised_here():
    def wrong(ax):
        raise ValueError("no such data")

    with pytest.raises(ValueError, match="no such data"):
        drawn([*panels()[:2], Panel("wrong", "", wrong), *panels()[:2]])
    assert not multiprocessing.active_children()
