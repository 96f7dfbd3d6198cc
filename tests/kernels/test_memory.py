"""Where large arrays lie."""

import gc

import numpy as np
import pytest

from tinygrad_llm.kernels import memory

HERE = np.zeros(0, np.float32)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Arrays of 4 KiB count as huge, and 20 KiB of them are kept."""
    monkeypatch.setattr(memory, "HUGE", 4096)
    monkeypatch.setattr(memory, "IDLE", 20480)
    monkeypatch.setattr(memory, "_idle", [])


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_a_freed_array_gives_its_place_to_the_next_that_fits():
    first = memory.empty_again(HERE, (40, 50))
    place = address(first)
    del first
    assert address(memory.empty_again(HERE, (2, 900))) == place
    assert address(memory.empty_again(HERE, (40, 51))) != place


def test_a_view_keeps_the_place():
    first = memory.empty_again(HERE, (40, 50))
    view, place = first[3:5].T, address(first)
    view[...] = 7
    del first
    gc.collect()
    other = memory.empty_again(HERE, (40, 50))
    other[...] = 1
    assert address(other) != place and (view == 7).all()


def test_two_at_a_time_lie_apart():
    a, b = memory.empty_again(HERE, (2000,)), memory.empty_again(HERE, (2000,))
    assert not np.shares_memory(a, b)


def test_no_more_stays_than_the_cap_allows():
    arrays = [memory.empty_again(HERE, (2000,)) for _ in range(5)]  # 8,000 bytes each
    del arrays
    gc.collect()
    assert len(memory._idle) == 2


def test_small_arrays_are_plain():
    assert memory.empty_again(HERE, (3,)).base is None
    assert memory.zeros_apart(np.ones((2, 3))).base is None


def test_zeros_apart_are_zeros(monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1)
    zeros = memory.zeros_apart(np.ones((3, 4), np.float32))
    assert zeros.shape == (3, 4) and zeros.dtype == np.float32 and not zeros.any()


def test_a_huge_array_is_no_view_and_its_parts_are():
    huge = memory.empty_again(HERE, (40, 50))
    assert not memory.is_a_view(huge) and memory.is_a_view(huge[1:])
    assert not memory.is_a_view(np.zeros(3)) and memory.is_a_view(np.zeros(3)[1:])


def test_room_is_made_for_a_larger_one_to_come():
    first = memory.empty_again(HERE, (1100,), room=2000)
    place = address(first)
    del first
    assert address(memory.empty_again(HERE, (2000,))) == place
