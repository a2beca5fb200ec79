"""Memory of large results serves again, but never for two arrays at a time."""

import threading

import numpy as np
import pytest

from kpref import _allocator, reused_memory
from kpref.reused_memory import empty_tensor


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same rules for arrays of kilobytes, beginning with nothing kept."""
    monkeypatch.setattr(reused_memory, "LEAST", 1 << 10)
    monkeypatch.setattr(reused_memory, "MOST", 1 << 16)
    reused_memory.let_go()
    yield
    reused_memory.let_go()


def kept():
    return sum(one.nbytes for one in reused_memory._kept)


def test_memory_serves_again_when_the_last_view_has_gone():
    one = empty_tensor((4, 256), np.float64)
    place, view = one.ctypes.data, one[1:, ::2]
    view[...] = 3.0
    del one
    assert empty_tensor((4, 256), np.float64).ctypes.data != place
    assert (view == 3.0).all()
    reused_memory.let_go()
    del view
    assert empty_tensor((8, 256), np.float32).ctypes.data == place  # as many bytes


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 7, 11), (40, 40), (200, 200)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_are_what_was_asked_for_and_begin_at_a_line(shape, dtype):
    for _ in range(2):
        tensor = empty_tensor(shape, dtype)
        assert (tensor.shape, tensor.dtype) == (shape, dtype)
        assert tensor.flags.c_contiguous
        assert tensor.flags.writeable
        assert tensor.size == 0 or tensor.ctypes.data % 64 == 0
        tensor[...] = 1


def test_what_has_waited_longest_goes_where_too_much_is_kept():
    held = [empty_tensor((1000 + 8 * index,), np.float64) for index in range(20)]
    places = [one.ctypes.data for one in held]
    while held:
        held.pop(0)
        assert kept() <= 1 << 16
    assert kept() > 1 << 15
    assert empty_tensor((1000 + 8 * 19,), np.float64).ctypes.data == places[-1]


def test_it_is_given_back_with_what_the_c_library_keeps():
    empty_tensor((4, 256), np.float64)
    assert kept() > 0
    _allocator.give_back()
    assert kept() == 0


def test_threads_never_have_the_same_memory():
    wrong = []

    def use(number):
        for _ in range(200):
            tensor = empty_tensor((2, 128), np.float64)
            tensor[...] = number
            other = empty_tensor((2, 128), np.float64)
            other[...] = -number
            if not ((tensor == number).all() and (other == -number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept() <= 1 << 16
