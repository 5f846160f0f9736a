"""dora's side of restart.py: a source and a sink on dora's own edge, one killed when told to.

Run by a Python that has dora-rs and dora-rs-cli, not streamflow. Reads `sink` or `source` from
stdin, kills that node's process (SIGKILL), and prints the seconds until a message from one living
node has reached the other. `dora run` restarts the node itself, after the same 0.1 s as ours. With
an argument it is one of the nodes; the sink keeps in a file who took the last message, from whom.
"""

import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

NOTE = Path("dora_note")  # process id of the sink, and of the source of its last message
PIDS = struct.Struct("<QQ")
GRAPH = """
nodes:
  - id: source
    path: {here}
    args: source
    restart_policy: always
    restart_delay: 0.1
    max_restart_delay: 0.1
    inputs: {{tick: dora/timer/millis/5}}
    outputs: [rows]
  - id: sink
    path: {here}
    args: sink
    restart_policy: always
    restart_delay: 0.1
    max_restart_delay: 0.1
    env: {{NOTE: {note}}}
    inputs: {{rows: source/rows}}
"""


def node(kind):
    """One of the two nodes, in a process that dora started."""
    import pyarrow
    from dora import Node

    me, rows = os.getpid(), pyarrow.array([os.getpid()] + 25 * [0])
    itself = Node()
    note = noted(os.environ["NOTE"]) if kind == "sink" else None
    for event in itself:
        if event["type"] == "STOP":
            break
        if event["type"] != "INPUT":
            continue
        if note is None:
            itself.send_output("rows", rows)
        else:
            PIDS.pack_into(note, 0, me, event["value"][0].as_py())


def noted(path):
    """The file that the sink writes, as memory."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), PIDS.size)


def flows(note, run, since, gone=0):
    """Seconds from `since` until a message has gone from source to sink, neither of them `gone`."""
    while time.monotonic() < since + 60:
        pids = PIDS.unpack_from(note, 0)
        if all(pids) and gone not in pids:
            return time.monotonic() - since
        if run.poll() is not None:
            raise SystemExit(f"dora run ended with {run.returncode}: see dora.log")
        time.sleep(0.005)
    raise SystemExit("dora: no messages for 60 s")


def main():
    Path("dora.yml").write_text(GRAPH.format(here=Path(__file__).resolve(), note=NOTE.resolve()))
    NOTE.write_bytes(bytes(PIDS.size))
    note = noted(NOTE)
    folder = Path(sys.executable).parent
    search = f"{folder}:{os.environ['PATH']}"
    command = shutil.which("dora", path=search)
    if command is None:
        raise SystemExit(f"no command dora beside {sys.executable}: pip install dora-rs-cli")
    with Path("dora.log").open("wb") as log:
        run = subprocess.Popen(
            [command, "run", "dora.yml"], env={**os.environ, "PATH": search}, stdout=log,
            stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,  # as ours: the kernel shares the cores between sessions
        )  # fmt: skip
    try:
        flows(note, run, time.monotonic())
        print(version("dora-rs"), flush=True)
        for line in sys.stdin:
            pid = PIDS.unpack_from(note, 0)[line.strip() == "source"]
            now = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            print(flows(note, run, now, pid), flush=True)
    finally:
        run.send_signal(signal.SIGINT)
        try:
            run.wait(20)
        except subprocess.TimeoutExpired:
            run.kill()


if __name__ == "__main__":
    node(sys.argv[1]) if len(sys.argv) > 1 else main()
