"""Events that faery sends by UDP: how many arrive in `udp_events` and in faery, and who counts the
rest.

    python benchmarks/udp.py [--runs N]

faery sends a real recording (EVT3, 640 x 480 pixels, the test suite's) many times over as fast as
it can, over loopback, with both ends on this machine. The receivers take turns. `udp_events` gives
events in slices of one millisecond of stream time, checked and in order; faery gives them as its
stream does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import faery
from _table import median, print_machine, print_table, ratio
from streamflow_nodes.sources.udp_events import UdpEvents

RECORDING = Path(__file__).resolve().parents[1] / "tests" / "data" / "indoor_640x480_evt3.raw"
REPEATS = 200
SILENCE = 1.0  # s after which a receiver has heard everything
SENDER = """
import sys, faery, numpy as np
path, port, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
events = faery.events_stream_from_file(path).to_array()
step = int(events["t"][-1]) - int(events["t"][0]) + 1000
for repeat in range(repeats):
    faery.events_stream_from_array(events, (640, 480)).to_udp(("127.0.0.1", port))
    events["t"] += np.uint64(step)  # the recording goes on, its time does not go back
"""


def send_to(port: int) -> subprocess.Popen[bytes]:
    """The sender's process."""
    return subprocess.Popen(
        [sys.executable, "-c", SENDER, str(RECORDING), str(port), str(REPEATS)]
    )  # fmt: skip


def ours() -> tuple[int, int, float]:
    """Events received, datagrams counted as lost, CPU seconds."""
    node = UdpEvents({"port": 0, "width": 640, "height": 480, "end_after": SILENCE})
    node.open()
    sender = send_to(node.results()["port"])
    before, received = time.process_time(), 0
    for emission in node.produce():
        received += len(emission.packet.data)
    used = time.process_time() - before
    sender.wait()
    node.close()
    return received, node.fault_counts["kernel_dropped"], used


def theirs(port: int) -> tuple[int, float]:
    """Events received by faery, CPU seconds."""
    stream = faery.events_stream_from_udp((640, 480), ("127.0.0.1", port))
    received = 0
    heard = time.monotonic()

    def take() -> None:
        nonlocal received, heard
        for events in stream:
            received += len(events)
            heard = time.monotonic()

    before = time.process_time()
    threading.Thread(target=take, daemon=True).start()
    time.sleep(0.2)  # it has no word for being ready
    sender = send_to(port)
    sender.wait()
    while time.monotonic() - heard < SILENCE:
        time.sleep(0.05)
    return received, time.process_time() - before


def main() -> None:
    """Take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print_machine()
    each = len(faery.events_stream_from_file(RECORDING).to_array())
    sent, datagrams = REPEATS * each, REPEATS * -(-each // 100)
    here, there = [], []
    for run in range(runs):
        here.append(ours())
        there.append(theirs(20_000 + run))
    shares = [received / sent for received, _, _ in here]
    their_shares = [received / sent for received, _ in there]
    counted = [lost / datagrams for _, lost, _ in here]
    print_table(
        f"{sent} events in {datagrams} datagrams, unpaced, medians of {runs} runs",
        ["receiver", "received", "counted as dropped", "CPU s per million received"],
        [
            ["udp_events", f"{median(shares):.1%}", f"{median(counted):.1%}",
             f"{median(used / received * 1e6 for received, _, used in here):.3f}"],
            ["faery", f"{median(their_shares):.1%}", "none",
             f"{median(used / received * 1e6 for received, used in there):.3f}"],
            ["ratio", f"{ratio(shares, their_shares):.2f}", "",
             f"{ratio([u / r for r, _, u in here], [u / r for r, u in there]):.2f}"],
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
