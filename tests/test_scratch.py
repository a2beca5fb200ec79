"""Memory that the kernels keep for their temporary arrays."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import strategies

from kpref.kernels.scratch import scratch


def make_form(seed=0):
    return strategies.make_flow("GRU", (3, 5, 4), seed=seed).linearization


def test_memory_is_used_again():
    form = make_form()
    with scratch(form, (3, 5, 4)) as first:
        address = first.ctypes.data
    with scratch(form, (2, 7)) as second:
        assert second.ctypes.data == address
        assert second.shape == (2, 7)
        assert second.dtype == form.dtype


def test_arrays_that_are_used_at_once_are_apart():
    form = make_form()
    with scratch(form, (10,)) as first, scratch(form, (10,)) as second:
        first[...], second[...] = 1.0, 2.0
        assert (first == 1.0).all()
        assert (second == 2.0).all()


def test_memory_comes_back_after_an_error():
    form = make_form()
    try:
        with scratch(form, (10,)) as array:
            address = array.ctypes.data
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with scratch(form, (10,)) as array:
        assert array.ctypes.data == address


def test_arrays_for_many_vectors_are_not_kept():
    form = make_form()
    with scratch(form, (3 * 3 * 5 * 4,)) as array:
        kept = weakref.ref(array.base)
        del array
    gc.collect()
    assert kept() is None


def test_memory_goes_with_the_linearisation():
    form = make_form()
    with scratch(form, (10,)) as array:
        kept = weakref.ref(array.base)
        del array
    assert kept() is not None
    del form
    gc.collect()
    assert kept() is None


def test_products_from_several_threads_are_those_of_one():
    flow = strategies.make_flow("GRU", (6, 20, 8), seed=1)
    tensors = np.random.default_rng(0).standard_normal((16, *flow.space.shape))
    expected = [flow.D.T(tensor) for tensor in tensors]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, right in zip(pool.map(flow.D.T, tensors), expected, strict=True):
                np.testing.assert_array_equal(found, right)
