"""The kernels that pick, move and count events: compiled and interpreted runs agree."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels.background_activity import keep_supported, keep_supported_by
from streamflow_nodes.kernels.count_frame import clear_rows, count_events
from streamflow_nodes.kernels.crop import keep_inside
from streamflow_nodes.kernels.downsample import shrink
from streamflow_nodes.kernels.hot_pixels import keep_cool
from streamflow_nodes.kernels.merge import in_order, merge_sorted
from streamflow_nodes.kernels.pixel_times import NEVER, quiet_pixels
from streamflow_nodes.kernels.refractory import keep_rested
from streamflow_nodes.kernels.time_surface import exponents, note_times
from streamflow_nodes.kernels.window import find_stop

from streamflow.packet import EVENT

WIDTH, HEIGHT = 5, 4
# coordinates reach outside the sensor, times step back now and then
hostile = st.lists(
    st.tuples(
        st.integers(-3, 40), st.integers(-2, WIDTH + 1), st.integers(-2, HEIGHT + 1),
        st.integers(-1, 2),
    ),
    max_size=60,
)  # fmt: skip


def words(steps):
    array = np.zeros(len(steps), EVENT)
    if steps:
        array["timestamp"] = np.cumsum([step[0] for step in steps])
        array["x"], array["y"], array["polarity"] = np.array(steps).T[1:]
    return array.view(np.int64)


def supported(kernel, events):
    last, kept = quiet_pixels(WIDTH, HEIGHT), np.zeros(events.size, np.int64)
    count, outside = kernel(events, WIDTH, HEIGHT, 30, last, kept)
    return count, outside, last, kept[: 2 * count]


def supported_by(kernel, events):
    last, kept = quiet_pixels(WIDTH, HEIGHT), np.zeros(events.size, np.int64)
    count, outside = kernel(events, WIDTH, HEIGHT, 30, 2, last, kept)
    return count, outside, last, kept[: 2 * count]


def rested(kernel, events):
    last, kept = np.full(WIDTH * HEIGHT, NEVER, np.int64), np.zeros(events.size, np.int64)
    count, outside = kernel(events, WIDTH, HEIGHT, 30, last, kept)
    return count, outside, last, kept[: 2 * count]


def cool(kernel, events):
    last = quiet_pixels(WIDTH, HEIGHT)
    own, scored = np.zeros_like(last), np.zeros_like(last)
    score, kept = np.zeros(last.size), np.zeros(events.size, np.int64)
    count, outside = kernel(events, WIDTH, HEIGHT, 5, 500.0, 2.0, last, own, scored, score, kept)
    return count, outside, last, own, scored, score, kept[: 2 * count]


def inside(kernel, events):
    kept = np.zeros(events.size, np.int64)
    count, outside = kernel(events, (WIDTH, HEIGHT), (1, 1), (3, 2), kept)
    return count, outside, kept[: 2 * count]


def shrunk(kernel, events):
    kept = np.zeros(events.size, np.int64)
    count, outside = kernel(events, (WIDTH, HEIGHT), 3, kept)
    return count, outside, kept[: 2 * count]


def counted(kernel, events):
    frame, touched = np.zeros((2, HEIGHT, WIDTH), np.int16), np.zeros(2 * HEIGHT, np.uint8)
    return (*kernel(events, 0, 10, 200, 32767, None, frame, touched), frame, touched)


def counted_together(kernel, events):
    frame, touched = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros(HEIGHT, np.uint8)
    return (*kernel(events, 0, 10, 200, 2, None, frame, touched), frame, touched)


def balanced(kernel, events):
    frame, touched = np.zeros((HEIGHT, WIDTH), np.int16), np.zeros(HEIGHT, np.uint8)
    return (*kernel(events, 0, 10, 200, 2, -2, frame, touched), frame, touched)


def cleared(kernel, events):
    frame, touched = np.zeros((2, HEIGHT, WIDTH), np.int16), np.zeros(2 * HEIGHT, np.uint8)
    count_events(events, 0, 10, 200, 32767, None, frame, touched)
    touched[3] = 0
    kernel(frame, touched)
    return frame, touched


def noted(kernel, events):
    last = np.full((2, HEIGHT, WIDTH), NEVER, np.int64)
    return (*kernel(events, 0, 200, NEVER, last), last)


def noted_together(kernel, events):
    last = np.full((HEIGHT, WIDTH), NEVER, np.int64)
    return (*kernel(events, 0, 200, NEVER, last), last)


def faded(kernel, events):
    surface = np.zeros((1, events.size // 2), np.float32)
    kernel(events[::2].copy().reshape(1, -1), 100, 3.0, surface)
    return (surface,)


def ordered(kernel, events):
    times = np.zeros(events.size // 2, np.int64)
    return (*kernel(events, 5, times), times)


def merged(kernel, events):
    times = np.maximum.accumulate(events[::2])
    out = np.zeros(2 * events.size, np.int64)
    kernel(events, times, events, times, out)
    return (out,)


def found(kernel, events):
    return kernel(events, 0, 10, 200)


@pytest.mark.parametrize(
    ("run", "kernel"),
    [
        (supported, keep_supported), (supported_by, keep_supported_by), (rested, keep_rested),
        (cool, keep_cool), (inside, keep_inside), (shrunk, shrink), (counted, count_events),
        (counted_together, count_events), (balanced, count_events), (cleared, clear_rows),
        (noted, note_times), (noted_together, note_times), (faded, exponents),
        (ordered, in_order), (merged, merge_sorted), (found, find_stop),
    ],
)  # fmt: skip
@settings(max_examples=25, deadline=None)
@given(steps=hostile)
def test_the_compiled_kernel_does_what_its_python_does(run: Any, kernel: Any, steps: Any):
    compiled = run(kernel, words(steps))

    with np.errstate(over="ignore"):  # unsigned differences wrap on purpose
        interpreted = run(kernel.py_func, words(steps))

    for one, other in zip(compiled, interpreted, strict=True):
        # exp() of the C library and of LLVM may differ in the last place
        np.testing.assert_allclose(one, other, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(steps=hostile, needed=st.integers(1, 8), window=st.integers(1, 100))
def test_support_is_what_counting_the_neighbours_gives(steps, needed, window):
    events = words(steps)
    fired: dict[tuple[int, int], int] = {}
    expected = []
    for time, x, y, polarity in events.view(EVENT).tolist():
        if not (0 <= x < WIDTH and 0 <= y < HEIGHT):
            continue
        around = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        company = sum(1 for pixel in around if pixel in fired and time - fired[pixel] < window)
        if company >= needed:
            expected.append((time, x, y, polarity))
        fired[x, y] = time

    kept = np.zeros(events.size, np.int64)
    count, outside = keep_supported_by(
        events, WIDTH, HEIGHT, window, needed, quiet_pixels(WIDTH, HEIGHT), kept
    )

    assert kept[: 2 * count].view(EVENT).tolist() == expected
    if needed == 1:
        again = np.zeros(events.size, np.int64)
        state = quiet_pixels(WIDTH, HEIGHT)
        assert keep_supported(events, WIDTH, HEIGHT, window, state, again) == (count, outside)
        np.testing.assert_array_equal(again[: 2 * count], kept[: 2 * count])


@settings(max_examples=40, deadline=None)
@given(steps=hostile, shift=st.integers(0, 10**15))
def test_a_later_clock_keeps_the_same_events(steps, shift):
    events, later = words(steps), words(steps)
    later[::2] += shift

    count, outside, last, kept = supported(keep_supported, events)
    shifted = supported(keep_supported, later)

    assert (count, outside) == shifted[:2]
    np.testing.assert_array_equal(kept[1::2], shifted[3][1::2])
    np.testing.assert_array_equal(last == NEVER, shifted[2] == NEVER)


@settings(max_examples=40, deadline=None)
@given(steps=hostile, order=st.randoms(use_true_random=False))
def test_a_count_frame_does_not_care_about_the_order_of_events(steps, order):
    events = words(steps)
    mixed = events.reshape(-1, 2)[order.sample(range(len(steps)), len(steps))].reshape(-1)

    frames = []
    for stream in (events, mixed):
        frame, touched = np.zeros((2, HEIGHT, WIDTH), np.int16), np.zeros(2 * HEIGHT, np.uint8)
        count_events(stream, 0, -(10**6), 10**6, 32767, None, frame, touched)
        frames.append(frame)
        np.testing.assert_array_equal(touched, frame.any(axis=2).reshape(-1))

    np.testing.assert_array_equal(*frames)
    sensible = [s for s in steps if 0 <= s[1] < WIDTH and 0 <= s[2] < HEIGHT]
    assert frames[0].sum() == len(sensible)


@pytest.mark.parametrize("factor", [*range(1, 200), 255, 256, 1000, 32766, 32767])
def test_downsampling_divides_every_coordinate_exactly(factor):
    array = np.zeros(32767, EVENT)
    array["x"] = np.arange(32767)
    array["y"] = np.arange(32766, -1, -1)
    kept = np.zeros(2 * 32767, np.int64)

    shrink(array.view(np.int64), (32767, 32767), factor, kept)

    np.testing.assert_array_equal(kept.view(EVENT)["x"], array["x"] // factor)
    np.testing.assert_array_equal(kept.view(EVENT)["y"], array["y"] // factor)
