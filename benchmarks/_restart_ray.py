"""Ray's side of restart.py: two actors that pass messages, one of which is killed when told to.

Run by a Python that has ray and pyzmq, not streamflow. Reads `sink` or `source` from stdin, kills
that actor's process (SIGKILL), exchanges addresses anew as the graph's owner would have to, and
prints the seconds until messages arrive again. Actors are restarted by Ray itself.
"""

import os
import signal
import sys
import threading
import time

import ray
import zmq

HERTZ = 1000
ENOUGH = 5  # messages after which data flows again


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=4)
class Actor:
    def __init__(self, kind):
        self.kind, self.count, self.address, self.wanted = kind, 0, "", ""
        self.context = zmq.Context()
        threading.Thread(target=getattr(self, kind), daemon=True).start()
        while kind == "sink" and not self.address:
            time.sleep(0.001)

    def sink(self):
        socket = self.context.socket(zmq.PULL)
        self.address = f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
        while True:
            socket.recv()
            self.count += 1

    def source(self):
        socket = None
        while True:
            if self.wanted != self.address:
                if socket is not None:
                    socket.close(0)
                socket = self.context.socket(zmq.PUSH)
                socket.setsockopt(zmq.IMMEDIATE, 1)
                socket.setsockopt(zmq.RECONNECT_IVL, 50)
                socket.connect(self.wanted)
                self.address = self.wanted
            if socket is not None:
                try:
                    socket.send(self.count.to_bytes(16, "little") + bytes(200), zmq.NOBLOCK)
                    self.count += 1
                except zmq.Again:
                    pass
            time.sleep(1 / HERTZ)

    def connect(self, address):
        self.wanted = address

    def look(self):
        return os.getpid(), self.count, self.address


def look(actor):
    """What an actor says, or None while it is away."""
    try:
        return ray.get(actor.look.remote(), timeout=0.2)
    except (ray.exceptions.RayError, TimeoutError):
        return None


def flows(actors, since, gone=-1):
    """Seconds from `since` until messages arrive again, without the process `gone`."""
    before = None
    while time.monotonic() < since + 60:
        sink, source = look(actors["sink"]), look(actors["source"])
        if sink is None or source is None or gone in (sink[0], source[0]):
            before = None
        elif sink[2] != source[2]:
            ray.get(actors["source"].connect.remote(sink[2]))
            before = None
        elif before is None:
            before = sink[1]
        elif sink[1] > before + ENOUGH:
            return time.monotonic() - since
        time.sleep(0.01)
    raise SystemExit("ray: no messages for 60 s")


def main():
    ray.init(
        num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False,
        logging_level="error",
    )  # fmt: skip
    actors = {kind: Actor.remote(kind) for kind in ("sink", "source")}
    flows(actors, time.monotonic())
    print(ray.__version__, flush=True)
    for line in sys.stdin:
        pid = look(actors[line.strip()])[0]
        now = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        print(flows(actors, now, pid), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
