"""Burst kernels against slow, obvious versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels import burst_trigger as kernels
from streamflow_nodes.kernels.burst_measures import (
    cells_and_steps,
    count_image,
    fullest,
    measure_burst,
)


def words_of(times, polarities, x=0, y=0):
    words = np.empty((len(times), 2), np.int64)
    words[:, 0] = times
    words[:, 1] = np.asarray(x) | np.asarray(y) << 16 | np.asarray(polarities) << 32
    words = words.reshape(-1)
    words.flags.writeable = False
    return words


streams = st.lists(
    st.tuples(st.integers(-2_000, 4_000), st.integers(0, 1)), min_size=1, max_size=80
).map(lambda rows: tuple(np.array(column) for column in zip(*sorted(rows), strict=True)))


@settings(deadline=None)
@given(stream=streams, cut=st.integers(0, 80), room=st.integers(1, 500))
def test_signs_are_on_less_off_of_each_step_up_to_the_first_without_room(stream, cut, room):
    times, polarities = stream
    signs = np.zeros(500, np.int64)
    before, after = words_of(times[:cut], polarities[:cut]), words_of(times[cut:], polarities[cut:])

    added = kernels.add_signs(before, -(1 << 62), 10, -100, room, signs)
    if 2 * added == before.size:
        added += kernels.add_signs(after, -(1 << 62), 10, -100, room, signs)

    assert added == (times < 10 * (room - 100)).sum()
    for at, value in enumerate(signs):
        inside = times[:added] // 10 == at - 100
        assert value == (2 * polarities[:added] - 1)[inside].sum()


def test_signs_stop_at_the_first_event_that_is_older_than_one_before_it():
    signs = np.zeros(4, np.int64)

    assert kernels.add_signs(words_of([5, 17, 18, 16, 39], [1] * 5), 5, 10, 0, 4, signs) == 3
    assert kernels.add_signs(words_of([5], [1]), 6, 10, 0, 4, signs) == 0
    assert signs.tolist() == [1, 2, 0, 0]


@settings(deadline=None)
@given(
    signs=st.lists(st.integers(-9, 9), min_size=24, max_size=60), half=st.integers(1, 8),
    centres=st.integers(1, 5),
)  # fmt: skip
def test_contrast_is_on_less_off_before_minus_after(signs, half, centres):
    contrast = np.empty(centres, np.int64)

    highest = kernels.contrasts(np.array(signs), half, half, contrast)

    expected = [
        sum(signs[c - half : c]) - sum(signs[c : c + half]) for c in range(half, half + centres)
    ]
    assert contrast.tolist() == expected
    assert highest == max([0, *expected])


@settings(deadline=None)
@given(stream=streams, cut=st.integers(0, 80), threshold=st.integers(1, 12))
def test_quiet_means_that_no_new_event_completes_a_crowd(stream, cut, threshold):
    times, polarities = stream
    cut = min(cut, len(times))
    held = words_of(times[:cut], polarities[:cut])
    new = words_of(times[cut:], polarities[cut:])

    quiet = kernels.is_quiet(held, new, -(1 << 62), 200, threshold)

    crowded = [
        i
        for i in range(max(cut, threshold - 1), len(times))
        if times[i] - times[i - threshold + 1] < 200
    ]
    assert quiet == (not crowded)


def test_a_plateau_has_one_peak_at_its_first_step():
    contrast = np.array([0, 5, 9, 9, 9, 4, 9, 0], np.int64)
    centres = np.empty(8, np.int64)

    found = kernels.peaks(contrast, 100, 2, 5, 0, 1000, centres)

    assert centres[:found].tolist() == [102]


def test_times_going_back_are_counted_against_the_newest_before_them():
    assert kernels.backward_times(words_of([5, 7, 6, 6, 8], [0] * 5), 6) == 3


@pytest.mark.parametrize("spread", [1, 60, 300, 3_000, 100_000])
@pytest.mark.parametrize("count", [1, 2, 40, 500])
def test_the_fullest_stretch_is_the_one_with_most_events_in_a_tenth_of_a_millisecond(count, spread):
    times = np.sort(np.random.default_rng(count).integers(-spread, spread, count))

    expected = max(((times > time - 100) & (times <= time)).sum() for time in times)

    assert fullest(words_of(times, [0] * count)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_compiled_kernels_do_what_their_python_does(seed):
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, 1_000, 200))
    words = words_of(
        times, random.integers(0, 2, 200), random.integers(0, 9, 200), random.integers(0, 7, 200)
    )

    def results(call):
        measures, image = np.zeros(6), np.zeros((2, 3, 4))
        cells, ends = np.zeros(200, np.int64), np.zeros(10, np.int64)
        call(measure_burst)(words, 2.0, measures)
        outside = call(count_image)(words, 200, 800, 2, image)
        left = call(cells_and_steps)(words, 200, 60, 10, 2, 3, 4, cells, ends)
        return [measures, image, outside, left, cells[: ends[-1]], ends]

    compiled, python = results(lambda kernel: kernel), results(lambda kernel: kernel.py_func)

    for one, other in zip(compiled, python, strict=True):
        assert np.allclose(one, other, rtol=1e-6)


def test_a_count_image_and_the_steps_agree_on_every_event():
    random = np.random.default_rng(0)
    times = np.sort(random.integers(0, 1_000, 500))
    x, y = random.integers(0, 10, 500), random.integers(0, 6, 500)
    words = words_of(times, random.integers(0, 2, 500), x, y)
    image = np.zeros((2, 3, 4))
    cells, ends = np.zeros(500, np.int64), np.zeros(12, np.int64)

    outside = count_image(words, 200, 800, 2, image)
    left = cells_and_steps(words, 200, 50, 12, 2, 3, 4, cells, ends)

    in_window = (times >= 200) & (times < 800)
    assert outside == left == (in_window & (x >= 8)).sum()
    assert np.bincount(cells[: ends[-1]], minlength=24).tolist() == image.reshape(-1).tolist()
    assert ends[-1] == in_window.sum() - outside
