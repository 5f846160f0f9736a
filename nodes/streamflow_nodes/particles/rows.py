"""What a particle is, in one row: the dtype that classifiers emit and file sinks write.

A row stands for one decision about one particle that crossed the beam. Text columns (`class`) hold
the class's name in ASCII, so a row explains itself without the model that made it. The first four
fields are what a scorer needs, in the order of the CSV file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PARTICLE = np.dtype(
    [
        ("time_us", "<f8"),  # centre of the passage, stream time
        ("class", "S16"),  # name of the class decided for, ASCII
        ("probability", "<f8"),  # the classifier's probability of that class, 0 to 1
        ("decided_us", "<i8"),  # stream time given to the decision: when its window was closed
        ("start_us", "<i8"),  # the window that was classified, [start_us, stop_us)
        ("stop_us", "<i8"),
        ("events", "<i4"),  # events in the window
        ("outer_events", "<i4"),  # of these, farther from (x, y) than a quarter of the height
        ("peak_rate", "<f4"),  # highest event rate in the window, events per second
        ("width_us", "<f4"),  # time that the central 80 % of the events take, us
        ("on_fraction", "<f4"),  # ON events / events, 0 to 1
        ("x", "<f4"),  # mean position of the events, pixels
        ("y", "<f4"),
        ("flags", "<u4"),  # bits, see FLAGS
        ("diameter_um", "<f4"),  # estimated by the classifier; NaN where its model does not
    ]
)
"""One particle (92 bytes). Times are stream time in microseconds."""

OVERLAP = 1 << 0  # another particle is in the same window
DOUBLET = 1 << 1  # two particles stuck together
DEBRIS = 1 << 2  # smaller than any particle looked for
MERGED = 1 << 3  # may be two particles that were not separated
LATE = 1 << 4  # decided after the deadline
ABORTED = 1 << 5  # a rule forbids acting on this decision

FLAGS = {
    "overlap": OVERLAP,
    "doublet": DOUBLET,
    "debris": DEBRIS,
    "merged": MERGED,
    "late": LATE,
    "aborted": ABORTED,
}
"""The bits of `flags` by name."""


class Channel(NamedTuple):
    """One parameter of a cytometry file: its short name, the field it shows, what it means."""

    name: str
    field: str
    meaning: str


CHANNELS = (
    Channel("Time", "time_us", "centre of the passage, us"),
    Channel("FSC-A", "events", "events of the passage"),
    Channel("FSC-H", "peak_rate", "highest event rate, events/s"),
    Channel("FSC-W", "width_us", "duration of the passage, us"),
    Channel("SSC-A", "outer_events", "events far from the centre: light scattered to the side"),
    Channel("ON_FRAC", "on_fraction", "ON events / events"),
    Channel("X", "x", "mean column of the events, pixels"),
    Channel("Y", "y", "mean row of the events, pixels"),
    Channel("CLASS", "class", "index of the class among the file's class names"),
    Channel("P_CLASS", "probability", "probability of the class"),
    Channel("LATENCY_US", "decided_us", "stream time from the centre to the decision, us"),
    Channel("FLAGS", "flags", "bits: " + ", ".join(f"{bit} {name}" for name, bit in FLAGS.items())),
    Channel("DIAM_UM", "diameter_um", "estimated diameter, um; 0 when there is no estimate"),
)
"""What a flow cytometry (FCS) file shows of a particle, in the order of its parameters.

Only names that begin with FSC or SSC are scatter to the common readers, and everything they do not
know they take for fluorescence: the readings that have no such meaning come last.
"""


def channel_values(particles: NDArray[np.void], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """What `CHANNELS` show of `particles`: (particles, channels) float64.

    `classes` gives CLASS its numbers: the position of the particle's class in it. ValueError for a
    particle whose class is not among them.
    """
    out = np.empty((len(particles), len(CHANNELS)), np.float64)
    names = np.array([name.encode() for name in classes], PARTICLE["class"])
    for column, channel in enumerate(CHANNELS):
        values = particles[channel.field]
        if channel.field == "class":
            is_name = values[:, None] == names[None, :]
            if not is_name.any(1).all():
                unknown = sorted(set(values[~is_name.any(1)].tolist()))
                raise ValueError(f"classes {unknown} are not among {classes}")
            values = is_name.argmax(1) if len(particles) else np.empty(0)
        elif channel.field == "decided_us":
            values = values - particles["time_us"]
        elif channel.field == "diameter_um":
            values = np.nan_to_num(values)  # readers of FCS files know no NaN
        out[:, column] = values
    return out


def require_particles(dtype: np.dtype[np.void]) -> None:
    """ValueError unless a table of `dtype` holds particles."""
    if dtype != PARTICLE:
        found = list(dtype.names or ()) or str(dtype)
        raise ValueError(f"rows with {found}; expected particles: {list(PARTICLE.names or ())}")
