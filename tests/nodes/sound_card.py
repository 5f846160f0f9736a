"""Runs `microphone` and `loudspeaker` on ALSA devices that end in a pipe and in a file.

    ALSA_CONFIG_PATH=FOLDER/asound.conf python sound_card.py FOLDER

PortAudio and ALSA are the real ones, the sound card is not: `feed` reads from a named pipe, so that
it gives samples when they are written and stands still else, and `tape` writes to a file as fast as
it is called. What happened goes to FOLDER/told.json; `test_sound_devices.py` looks at it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from live import Live
from streamflow_nodes.audio.samples import sample_time
from streamflow_nodes.sinks.loudspeaker import Loudspeaker
from streamflow_nodes.sources.microphone import Microphone

from streamflow.errors import DeviceError
from streamflow.packet import Packet, Samples
from streamflow.testing import drive

RATE, BLOCK = 16_000, 256
CONFIG = """
pcm.!default {{ type null }}
ctl.!default {{ type null }}
pcm.feed {{ type file slave.pcm {{ type null }} file /dev/null infile "{folder}/feed" format raw
           hint {{ show on description "feed" }} }}
pcm.tape {{ type file slave.pcm {{ type null }} file "{folder}/tape" format raw
           hint {{ show on description "tape" }} }}
"""


def ramp(begin: int, count: int) -> Any:
    """Samples that tell their number, (n,) float32, none of them 0."""
    return ((np.arange(begin, begin + count) % 20_000 + 1) / 32768).astype(np.float32)


def record(pipe: int) -> dict[str, Any]:
    """A device that gives two seconds, stops, comes back and gives zeros."""
    node = Microphone({"device": "feed", "rate": RATE, "block_size": BLOCK, "queue": 10.0})
    node.open()
    live = Live(node)

    def give(samples: Any) -> None:
        os.write(pipe, samples.tobytes())

    def given() -> int:
        return sum(len(packet.data) for packet in list(live.packets))

    sound = ramp(0, 125 * BLOCK)
    sound[10], sound[11] = 1.0, np.nan
    for number in range(125):
        give(sound[number * BLOCK : (number + 1) * BLOCK])
    live.wait(lambda: given() >= 124 * BLOCK)
    live.wait(lambda: live.faults.get("disconnected"))
    before = given()
    writer = threading.Thread(
        target=lambda: [give(np.zeros(BLOCK, np.float32)) for _ in range(200)], daemon=True
    )
    writer.start()
    live.wait(lambda: given() >= before + 100 * BLOCK)
    begun = time.monotonic()
    live.stop()  # the pipe is dry by now, in which PortAudio mostly hangs
    closed_s = time.monotonic() - begun
    whole = [packet.data for packet in live.packets if len(packet.data)]
    got = np.concatenate([data.array[:, 0] for data in whole])
    return {
        "is_exact": bool(np.array_equal(got[: 124 * BLOCK], np.nan_to_num(sound)[: 124 * BLOCK])),
        "firsts": [data.first for data in whole],
        "starts": [packet.start for packet in live.packets],
        "faults": live.faults,
        "results": node.results(),
        "closed_s": closed_s,
    }


def play(folder: Path) -> dict[str, Any]:
    """One second and a half of samples, with some beyond full scale and one that is no number."""
    samples = np.repeat(ramp(0, 24_000)[:, None], 2, 1)
    samples[100], samples[101] = 1.5, np.nan
    packets = [
        Packet(sample_time(at, RATE), sample_time(at + 500, RATE),
               Samples(samples[at : at + 500].copy(), RATE, at))
        for at in range(0, 24_000, 500)
    ]  # fmt: skip
    out = drive(Loudspeaker({"device": "tape", "block_size": BLOCK}), samples=packets)
    tape = np.fromfile(folder / "tape", np.float32).reshape(-1, 2)
    expected = np.clip(np.nan_to_num(samples), -1, 1)
    heard = tape[tape.any(axis=1)]
    return {
        "is_exact": bool(np.array_equal(heard, expected[expected.any(axis=1)])),
        "faults": out.faults,
        "results": out.results,
    }


def error_of(settings: dict[str, Any]) -> str:
    try:
        Microphone(settings).open()
    except DeviceError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    # first: PortAudio opens every device when it is loaded, and a pipe waits for its writer
    pipe = os.open(folder / "feed", os.O_RDWR)
    errors = [error_of({"device": "violin"}), error_of({"device": 77}), error_of({"device": "e"})]
    told = {"errors": errors, "recorded": record(pipe), "played": play(folder)}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
