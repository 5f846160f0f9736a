"""What tonic, evlib and faery have of the jobs of our event nodes, each given a whole array.

A peer that is not installed has no jobs. Where a peer's rule is ours, `check` compares the results
and the program ends where they differ; where it is another rule, `rule` says which.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import faery
import msgspec
import numpy as np

from streamflow.packet import EVENT

Run = Callable[[], Any]


class PeerJob(msgspec.Struct):
    """One job of one peer: `run` takes the first `events` events; `rule` says what differs."""

    job: str
    peer: str
    events: int
    run: Run
    rule: str
    check: Callable[[Any, Any], bool] | None = None  # (ours, theirs); None: another rule


def installed(name: str) -> Any:
    """The peer's module, or None."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # it is installed, and broken
        return None


def peer_jobs(array: Any, sensor: tuple[int, int]) -> tuple[list[PeerJob], list[str]]:
    """The jobs of all peers that are installed, and the names of those that are not."""
    jobs, missing = faery_jobs(array, sensor), []
    for name, make in (("tonic", tonic_jobs), ("evlib", evlib_jobs)):
        module = installed(name)
        if module is None:
            missing.append(name)
        else:
            jobs += make(module, array, sensor)
    return jobs, missing


def faery_jobs(array: Any, sensor: tuple[int, int]) -> list[PeerJob]:
    """Faery's crop and its filter of hot pixels."""
    theirs = np.zeros(len(array), faery.EVENTS_DTYPE)
    for name, ours in zip(("t", "x", "y", "on"), EVENT.names or (), strict=True):
        theirs[name] = array[ours]

    def run(apply: Callable[[Any], Any]) -> Run:
        return lambda: apply(faery.events_stream_from_array(theirs, sensor)).to_array()

    def same(ours: Any, out: Any) -> bool:
        names = zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True)
        return len(ours) == len(out) and all((ours[a] == out[b]).all() for a, b in names)

    return [
        PeerJob(
            "crop", "faery", len(array), run(lambda s: s.crop(80, 560, 60, 420)), "", same
        ),
        PeerJob(
            "hot_pixels", "faery", len(array),
            run(lambda s: s.filter_hot_pixels(maximum_relative_event_count=3.0)),
            "the whole recording's counts, beside those of the neighbours",
        ),
    ]  # fmt: skip


def tonic_jobs(tonic: Any, array: Any, sensor: tuple[int, int]) -> list[PeerJob]:
    """Tonic's functions on structured arrays; most of them are loops in Python."""
    few, many = array[:100_000], array[:1_000_000]
    dtype = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "<i1")])

    def theirs(part: Any) -> Any:
        out = np.zeros(len(part), dtype)
        for name, ours in zip(("t", "x", "y", "p"), EVENT.names or (), strict=True):
            out[name] = part[ours]
        return out

    small, large, size = theirs(few), theirs(many), (*sensor, 2)
    functions = tonic.functional

    def frames_agree(ours: Any, out: Any) -> bool:
        # tonic leaves out a last window that is not full; its frames are int16 like ours
        return len(out) > 0 and all((a == b).all() for a, b in zip(ours, out, strict=False))

    def surfaces_agree(ours: Any, out: Any) -> bool:
        # theirs are float64, ours float32 with exponents rounded to 24 bits
        pairs = zip(ours, out, strict=False)
        return len(out) > 0 and all(np.allclose(a, b, rtol=1e-5, atol=1e-30) for a, b in pairs)

    return [
        PeerJob(
            "background_activity", "tonic", len(few),
            lambda: functions.denoise_numpy(small, 2000), "four neighbours",
        ),
        PeerJob(
            "refractory", "tonic", len(few),
            lambda: functions.refractory_period_numpy(small, 1000),
            "the rest restarts with every event seen",
        ),
        PeerJob(
            "count_frame, 1 ms", "tonic", len(many),
            lambda: functions.to_frame_numpy(large, size, time_window=1000), "", frames_agree,
        ),
        PeerJob(
            "time_surface, 10 ms", "tonic", len(many),
            lambda: functions.to_timesurface_numpy(large, size, dt=10_000, tau=10_000),
            "", surfaces_agree,
        ),
    ]  # fmt: skip


def evlib_jobs(evlib: Any, array: Any, sensor: tuple[int, int]) -> list[PeerJob]:
    """What evlib (Rust and polars) has; its frames are sparse rows, not images."""
    import polars

    width, height = sensor
    names = {"x": "x", "y": "y", "t": "timestamp", "polarity": "polarity"}

    def table(number: int) -> Any:
        columns = {name: array[ours][:number] for name, ours in names.items()}
        return polars.DataFrame(columns).with_columns(polars.col("t").cast(polars.Duration("us")))

    many = min(len(array), 1_000_000)
    large = table(many)
    duration = int(array["timestamp"][many - 1] - array["timestamp"][0])
    bins = duration // 1000 + 1

    def rested() -> Any:
        settings = {"method": "refractory", "refractory_period_us": 1000}
        return evlib.filtering.filter_noise(large, **settings).collect()

    def inside() -> Any:
        region = {"x_min": 80, "x_max": 559, "y_min": 60, "y_max": 419}
        return evlib.filtering.filter_by_roi(large, **region).collect()

    def same(ours: Any, out: Any) -> bool:
        return len(ours) == len(out) and bool((ours["x"] + 80 == out["x"].to_numpy()).all())

    return [
        PeerJob("crop", "evlib", many, inside, "", same),
        PeerJob(
            "refractory", "evlib", many, rested, "the rest restarts with every event seen"
        ),
        PeerJob(
            "hot_pixels", "evlib", many,
            lambda: evlib.filtering.filter_hot_pixels(large, threshold_percentile=99.9).collect(),
            "the busiest 0.1 % of the whole recording's pixels",
        ),
        PeerJob(
            "count_frame, 1 ms", "evlib", many,
            lambda: evlib.create_event_frame(large, height, width, n_time_bins=bins),
            "sparse rows of as many bins",
        ),
        PeerJob(
            "time_surface, 10 ms", "evlib", many,
            lambda: evlib.create_time_surface(large, height, width, 10_000.0, 10_000.0),
            "sparse rows",
        ),
    ]  # fmt: skip
