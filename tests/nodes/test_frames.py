"""Memory of frames: used again as soon as nobody can see it, and not before."""

import gc

import numpy as np
import pytest
from streamflow_nodes.events.frames import FrameMemory


def address(array):
    return array.__array_interface__["data"][0]


def test_new_memory_is_zero_and_shaped():
    frame, marks = FrameMemory(2, 3, 5, dtype=np.int16, marks=7).take()

    assert (frame.shape, frame.dtype, marks.shape, marks.dtype) == ((2, 3, 5), "i2", (7,), "u1")
    assert not frame.any()
    assert not marks.any()
    assert frame.flags.c_contiguous
    assert frame.flags.aligned


def test_released_memory_comes_back_as_it_was_left():
    memory = FrameMemory(3, 5, dtype=np.uint8, marks=2)
    frame, marks = memory.take()
    frame[1, 2], marks[1], where = 9, 8, address(frame)

    del frame
    again, marks = memory.take()

    assert address(again) == where
    assert (again[1, 2], marks[1]) == (9, 8)


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: frame[1:],
        lambda frame: frame[::2][:0],
        lambda frame: frame.T.view(np.int8),
        lambda frame: memoryview(frame[2]),
        lambda frame: np.frombuffer(frame.data, np.uint8),
        lambda frame: frame,
    ],
    ids=["part", "nothing", "cast", "memoryview", "buffer", "itself"],
)
def test_memory_is_not_used_again_while_somebody_holds_a_view(view):
    memory = FrameMemory(3, 5, dtype=np.uint8)
    frame = memory.take()[0]
    where, held = address(frame), view(frame)

    del frame
    other = memory.take()[0]
    others = address(other)
    del held, other
    after = {address(frame) for frame in [memory.take()[0], memory.take()[0]]}

    assert others != where
    assert after == {where, others}


def test_memory_that_many_held_at_once_is_given_back():
    memory = FrameMemory(1000, dtype=np.uint8)
    held = [memory.take()[0] for _ in range(20)]

    del held
    gc.collect()

    assert len(memory._spare) == 4
    assert not memory._held
