"""Decisions become pulses in time or counted aborts, each row exactly once.

Serial ports are pseudo-terminals and pyserial's own loop-back port, messages go over real ZeroMQ
sockets. There is no GPIO chip here: gpiod is replaced at its own boundary, so what the kernel does
with a line is not tested.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.particles.actuators import (
    MessageActuator,
    PulseSocket,
    SerialActuator,
    SerialPort,
)
from streamflow_nodes.particles.pulses import PulseThread
from streamflow_nodes.particles.rows import ABORTED, DEBRIS, DOUBLET, MERGED, OVERLAP
from streamflow_nodes.particles.sorting import Rules, Sorter
from streamflow_nodes.sinks.sort_trigger import SortTrigger

from streamflow.clock import Clock
from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import Driven, drive, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run

GRAPH = Path(__file__).resolve().parents[2] / "graphs" / "flow_cytometry"
ROW = np.dtype(
    [
        ("time_us", "<f8"), ("class", "S16"), ("probability", "<f8"), ("decided_us", "<i8"),
        ("velocity_m_s", "<f4"), ("flags", "<u4"),
    ]
)  # fmt: skip


def particle(
    time_us: float, name: str = "A", *, probability: float = 1.0, decided: int | None = None,
    velocity: float = 0.1, flags: int = 0,
) -> tuple[Any, ...]:  # fmt: skip
    known = decided if decided is not None else (int(time_us) if abs(time_us) < 1e15 else 0)
    return (time_us, name.encode(), probability, known, velocity, flags)


def rows_of(*rows: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    return np.array(list(rows), ROW)


def source_packet(start: int, stop: int, captured: int) -> Packet[Events]:
    return Packet(start, stop, Events(np.empty(0, EVENT), 64, 48), captured)


def live(**settings: Any) -> SortTrigger:
    """A node in a graph that runs in real time."""
    node = SortTrigger({"classes": ["A"], "delay": 0.001, "settle": 1, **settings}, name="sort")
    node.clock = Clock("realtime")
    return node


def stream(**settings: Any) -> SortTrigger:
    """A node that counts in stream time."""
    plain = {"classes": ["A"], "delay": 0.01, "timing": "stream", "mode": "yield", **settings}
    return SortTrigger(plain, name="sort")


def feed(node: SortTrigger, *rows: tuple[Any, ...], origin: int, end: bool = True) -> Driven:
    """Hand over rows to an open node for which stream time 0 was at `origin` (monotonic ns)."""
    clock = [source_packet(0, 1000, origin + 1_000_000)]
    return drive(
        node, opened=True, end=end, events=clock, rows=[table(rows_of(*rows), 0, 1_000_000)]
    )


def read_log(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def actions(path: Path) -> list[str]:
    """What was done for each row, in the order of the rows."""
    return [line["action"] for line in sorted(read_log(path), key=lambda line: int(line["row"]))]


def assert_closed(results: dict[str, Any]) -> None:
    """Every row is in exactly one place."""
    aborted = sum(results["aborted"].values())
    assert results["rows"] == results["pulsed"] + results["not_target"] + aborted
    assert results["rows"] == sum(results["classes"].values())


GOODBYE = b"!"  # what no test writes as a pulse


class Terminal:
    """A pseudo-terminal, and a thread at its other end that notes when each byte came."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        self._keep = os.open(self.path, os.O_RDWR | os.O_NOCTTY)  # between the port's closings
        self.heard: list[tuple[int, bytes]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                data = os.read(self.master, 1)
            except OSError:
                return
            if data in (b"", GOODBYE):
                return
            self.heard.append((time.monotonic_ns(), data))

    def text(self, count: int) -> bytes:
        """The bytes so far, once there are `count`."""
        wait_for(lambda: len(self.heard) >= count)
        return b"".join(data for _, data in self.heard)

    def unplug(self) -> None:
        """Take the other end away, which a thread that reads from it would keep open."""
        os.write(self._keep, GOODBYE)
        self._thread.join(10)
        os.close(self._keep)
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal()
    yield it
    os.close(it._keep)
    it._thread.join(10)  # the last slave is closed: its read ends
    os.close(it.master)


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.001)
    raise AssertionError("it never came")


# --- rules, in stream time ------------------------------------------------------------------------


def test_every_row_ends_in_exactly_one_place(tmp_path: Path) -> None:
    rows = rows_of(
        particle(0),
        particle(10_000, "B"),
        particle(20_000, probability=0.5),
        particle(30_000, flags=MERGED),
        particle(40_000, flags=ABORTED),
        particle(50_000, decided=60_001),
        particle(float("nan")),
        particle(float("nan"), "B"),
        particle(80_000, flags=DEBRIS | DOUBLET | OVERLAP),  # none of them forbids in mode yield
        particle(90_000, probability=float("nan")),
        particle(100_000),
    )
    node = stream(probability=0.9, tolerance=0.0005, log=str(tmp_path / "log.csv"))

    out = drive(node, rows=[table(rows, 0, 1)])

    assert actions(tmp_path / "log.csv") == [
        "pulsed", "not_target", "improbable", "flagged", "flagged", "late", "no_time",
        "not_target", "pulsed", "improbable", "pulsed",
    ]  # fmt: skip
    assert_closed(out.results)
    assert out.results["aborted"] == {"flagged": 2, "improbable": 2, "late": 1, "no_time": 1}
    assert out.results["classes"] == {"A": 9, "B": 2}
    assert out.faults["time_unusable"] == 2


@pytest.mark.parametrize(
    ("mode", "flag", "is_sorted"),
    [
        ("yield", MERGED, False), ("yield", OVERLAP, True), ("yield", DOUBLET, True),
        ("purity", OVERLAP, False), ("purity", DOUBLET, True), ("purity", DEBRIS, True),
        ("single", OVERLAP, False), ("single", DOUBLET, False), ("single", ABORTED, False),
    ],
)  # fmt: skip
def test_a_mode_has_its_own_forbidden_flags(mode: str, flag: int, is_sorted: bool) -> None:
    out = drive(stream(mode=mode), rows=[table(rows_of(particle(0, flags=flag)), 0, 1)])

    assert out.results["pulsed"] == is_sorted


def test_named_flags_replace_those_of_the_mode() -> None:
    rows = rows_of(particle(0, flags=MERGED), particle(50_000, flags=DEBRIS))

    out = drive(stream(forbid=["debris"]), rows=[table(rows, 0, 1)])

    assert out.results["aborted"] == {"flagged": 1}


@pytest.mark.parametrize("spoiler", [{"probability": 0.1}, {"flags": MERGED}, {"name": "B"}])
def test_purity_refuses_what_is_near_anything_that_is_not_to_be_sorted(
    spoiler: dict[str, Any],
) -> None:
    rows = rows_of(particle(0), particle(400, **spoiler), particle(50_000))

    out = drive(stream(mode="purity", probability=0.5), rows=[table(rows, 0, 1)])

    assert out.results["aborted"].pop("coincidence") == 1
    assert out.results["pulsed"] == 1


def test_pulses_that_overlap_are_one_pulse_or_one_abort() -> None:
    rows = rows_of(particle(0), particle(600), particle(1200), particle(50_000))

    merged = drive(stream(width=0.001), rows=[table(rows, 0, 1)]).results
    refused = drive(stream(width=0.001, overlap="abort"), rows=[table(rows, 0, 1)]).results

    assert (merged["pulsed"], merged["pulses"], merged["aborted"]) == (4, 2, {})
    assert (refused["pulsed"], refused["aborted"]) == (3, {"overlap": 1})


def test_a_faster_particle_is_sorted_before_one_that_passed_earlier(tmp_path: Path) -> None:
    rows = rows_of(
        particle(0, velocity=0.05),  # 2 mm: arrives after 40 ms
        particle(10_000, velocity=0.2),  # after 10 ms
        particle(20_000, velocity=0.0),
        particle(30_000, velocity=float("nan")),
        particle(40_000, velocity=0.0005),  # after 4 s
    )
    node = stream(delay=None, distance=0.002, longest_delay=1.0, log=str(tmp_path / "log.csv"))

    out = drive(node, rows=[table(rows, 0, 1)])

    log = read_log(tmp_path / "log.csv")
    pulses = [(int(line["row"]), int(line["due_ns"])) for line in log if line["due_ns"]]
    assert [number for number, _ in pulses] == [1, 0]
    assert [due for _, due in pulses] == pytest.approx([19_500_000, 39_500_000], abs=1000)
    assert out.results["aborted"] == {"no_velocity": 2, "too_slow": 1}


@settings(deadline=None, max_examples=60)
@given(
    drawn=st.lists(
        st.tuples(
            st.integers(0, 3000), st.sampled_from("AAB"), st.integers(0, 13_000),
            st.sampled_from([0, 0, 0, MERGED]),
        ),
        max_size=20,
    ),
    sizes=st.lists(st.integers(0, 5), max_size=6),
    mode=st.sampled_from(["purity", "yield", "single"]),
)  # fmt: skip
def test_what_is_done_is_the_same_however_the_rows_were_cut(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], sizes: list[int], mode: str
) -> None:
    folder, time_us = tmp_path_factory.mktemp("cut"), 0
    rows = []
    for step, name, decided, flags in drawn:
        time_us += step
        rows.append(particle(time_us, name, decided=time_us + decided, flags=flags))
    array, packets, at = rows_of(*rows), [], 0
    for size in [*sizes, len(rows)]:
        packets.append(table(array[at : at + size].copy(), at, at + size))
        at = min(at + size, len(rows))
    plain = {"mode": mode, "width": 0.002, "dead_time": 0.001, "guard": 0.0003}

    whole = drive(stream(**plain, log=str(folder / "a")), rows=[table(array, 0, 1)])
    parts = drive(stream(**plain, log=str(folder / "b")), rows=packets)

    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert whole.results == parts.results
    assert_closed(whole.results)


def test_times_beyond_reason_are_aborted_and_do_not_break_a_snapshot() -> None:
    wild = (1e300, -1e300, float("inf"), -9e14, 9e14)
    node = live()
    node.open()

    feed(node, *(particle(t) for t in wild), origin=time.monotonic_ns(), end=False)
    node.snapshot()
    out = drive(node, opened=True)

    assert out.results["aborted"] == {"no_time": 3, "restarted": 1, "too_slow": 1}


# --- pulses, in real time -------------------------------------------------------------------------


def test_a_serial_port_is_told_on_and_off_for_each_pulse_in_order(
    terminal: Terminal, tmp_path: Path
) -> None:
    node = live(
        serial={"port": terminal.path, "on": "+\x01", "off": "-\xff"}, width=0.004,
        tolerance=10.0, log=str(tmp_path / "log.csv"),
    )  # fmt: skip
    node.open()
    origin = time.monotonic_ns() + 200_000_000

    feed(
        node, particle(0), particle(20_000, "B"), particle(40_000), particle(43_000),
        particle(60_000), origin=origin,
    )  # fmt: skip

    one = b"+\x01-\xff"
    assert terminal.text(16) == b"-\xff" + 3 * one + b"-\xff"  # off when opened, off when closed
    log = [line for line in read_log(tmp_path / "log.csv") if line["due_ns"]]
    assert [line["action"] for line in log] == ["pulsed", "pulsed", "merged_pulse", "pulsed"]
    due = [origin + (time_us + 1000 - 2000) * 1000 for time_us in (0, 40_000, 43_000, 60_000)]
    assert [int(line["due_ns"]) for line in log] == due
    heard_on = [stamp for stamp, data in terminal.heard if data == b"+"]
    heard_off = [stamp for stamp, data in terminal.heard if data == b"-"][1:]
    fired = [int(line["fired_ns"]) for line in log if line["action"] == "pulsed"]
    assert all(
        d <= f <= h for d, f, h in zip(np.take(due, [0, 1, 3]), fired, heard_on, strict=True)
    )
    # a pulse that was prolonged ends with the second particle
    ends = [due[0] + 4_000_000, due[2] + 4_000_000, due[3] + 4_000_000]
    assert all(heard >= end for heard, end in zip(heard_off[:3], ends, strict=True))


def test_a_decision_that_comes_after_its_deadline_gives_no_pulse(terminal: Terminal) -> None:
    node = live(serial={"port": terminal.path}, tolerance=0.0005)
    node.open()
    origin = time.monotonic_ns()
    deadline = origin + 1_000_000 + 500_000
    wait_for(lambda: time.monotonic_ns() > deadline)

    out = feed(node, particle(0), particle(500), origin=origin)

    assert out.results["aborted"] == {"late": 2}
    assert out.results["pulses"] == 0
    assert terminal.text(2) == b"00"  # opened and closed


def test_a_thread_that_is_kept_from_firing_makes_no_late_pulse() -> None:
    node = live(tolerance=0.0005)
    node.open()
    origin = time.monotonic_ns() + 20_000_000
    assert node._thread is not None

    feed(node, particle(0), origin=origin, end=False)
    with node._thread.condition:  # the thread cannot decide while this is held
        wait_for(lambda: time.monotonic_ns() > origin + 3_000_000)
    out = drive(node, opened=True)

    assert out.results["aborted"] == {"late": 1}


def test_rows_wait_for_the_clock_to_settle() -> None:
    node = live(settle=2)
    node.open()

    out = feed(node, particle(0), particle(10, "B"), origin=time.monotonic_ns())

    assert out.results["aborted"] == {"no_clock": 1}
    assert out.results["not_target"] == 1


def test_a_dry_run_counts_pulses_and_says_that_nothing_was_driven() -> None:
    node = live(tolerance=10.0)
    node.open()

    out = feed(node, particle(0), origin=time.monotonic_ns() + 1_000_000)

    assert out.results["pulses"] == out.results["lateness_us"]["count"] == 1
    assert out.results["actuator"] == "none: a dry run, nothing was driven"


@pytest.mark.parametrize("line", ["rts", "dtr"])
def test_a_line_of_a_serial_port_follows_the_pulse(line: str) -> None:
    actuator = SerialActuator(SerialPort(port="loop://", signal=line), "sort")  # type: ignore[arg-type]  # a literal
    looped = {"rts": "cts", "dtr": "dsr"}[line]  # how pyserial's loop-back port is wired
    seen = [getattr(actuator._port, looped)]

    for is_on in (True, False, True):
        actuator.switch(is_on, {})
        seen.append(getattr(actuator._port, looped))
    actuator.close()

    assert seen == [False, True, False, True]


# --- ZeroMQ and GPIO ------------------------------------------------------------------------------


Sockets = Callable[[int], "zmq.Socket[bytes]"]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Makes sockets of other programs, and closes them."""
    made: list[zmq.Socket[bytes]] = []
    context = zmq.Context()

    def make(kind: int) -> zmq.Socket[bytes]:
        made.append(context.socket(kind))
        return made[-1]

    yield make
    for it in made:
        it.close(linger=0)
    context.term()


def test_a_program_that_pulls_is_told_of_each_pulse_with_its_deadline(
    sockets: Sockets,
) -> None:
    pull = sockets(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    node = live(zmq={"address": address, "pattern": "push", "bind": False}, tolerance=10.0)
    node.open()
    origin = time.monotonic_ns() + 300_000_000  # time to connect

    feed(node, particle(0), particle(10_000, "B"), particle(20_000), origin=origin)

    messages = []
    while pull.poll(0 if len(messages) == 4 else 5000):
        messages.append(json.loads(pull.recv()))
    assert [(m["pulse"], m["row"]) for m in messages] == [
        ("on", 0), ("off", 0), ("on", 2), ("off", 2),
    ]  # fmt: skip
    assert messages[0] == {
        "pulse": "on", "row": 0, "class": "A", "time_us": 0.0, "due_ns": origin + 500_000,
        "deadline_ns": origin + 500_000 + 10_000_000_000,
    }  # fmt: skip


def test_a_subscriber_hears_the_pulses(sockets: Sockets, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/pulses"
    subscriber = sockets(zmq.SUB)
    subscriber.subscribe(b"")
    monitor = subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    node = live(zmq={"address": address}, tolerance=10.0)
    node.open()
    subscriber.connect(address)
    assert monitor.poll(10_000)

    feed(node, particle(0), origin=time.monotonic_ns() + 300_000_000)

    assert subscriber.poll(10_000)
    assert json.loads(subscriber.recv())["pulse"] == "on"
    subscriber.disable_monitor()
    monitor.close()


def test_nobody_to_pull_is_an_error_that_says_so(tmp_path: Path) -> None:
    node = live(
        zmq={"address": f"ipc://{tmp_path}/nobody", "pattern": "push", "bind": False}, tolerance=9.0
    )
    node.open()

    with pytest.raises(DeviceError, match=r"no program takes messages at ipc://.*start it before"):
        feed(node, particle(0), origin=time.monotonic_ns())


def test_messages_may_be_closed_twice_after_nobody_took_the_last(
    sockets: Sockets, tmp_path: Path
) -> None:
    pull = sockets(zmq.PULL)
    pull.bind(f"ipc://{tmp_path}/gone")
    actuator = MessageActuator(
        PulseSocket(address=f"ipc://{tmp_path}/gone", pattern="push", bind=False), "sort"
    )

    def is_taken() -> bool:
        try:
            actuator.switch(True, {})
        except DeviceError:
            return False
        return True

    wait_for(is_taken)
    pull.close(linger=0)
    wait_for(lambda: not is_taken())

    with pytest.raises(DeviceError, match="no program takes messages"):
        actuator.close()
    actuator.close()


def test_an_address_in_use_is_an_error_that_says_so(sockets: Sockets) -> None:
    port = sockets(zmq.PULL).bind_to_random_port("tcp://127.0.0.1")

    with pytest.raises(DeviceError, match=r"cannot listen at .*in use.*that is free"):
        live(zmq={"address": f"tcp://127.0.0.1:{port}"}).open()


class Lines:
    """What gpiod gives for requested lines, and what was done with it (stands in for a chip)."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.broken = False

    def request(self, path: str, **options: Any) -> Lines:
        self.calls.append(("request", path, *options["config"]))
        (settings,) = options["config"].values()
        self.calls.append((settings.direction.name, settings.active_low))
        return self

    def set_value(self, line: Any, value: Any) -> None:
        if self.broken:
            raise OSError(19, "No such device")
        self.calls.append((line, value.name))

    def release(self) -> None:
        self.calls.append("release")


def test_a_gpio_line_is_active_during_the_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    monkeypatch.setattr("gpiod.request_lines", lines.request)
    node = live(gpio={"chip": "/dev/gpiochip7", "line": 17, "active_low": True}, tolerance=10.0)
    node.open()

    feed(node, particle(0), origin=time.monotonic_ns() + 1_000_000)

    assert lines.calls == [
        ("request", "/dev/gpiochip7", 17), ("OUTPUT", True),
        (17, "ACTIVE"), (17, "INACTIVE"), (17, "INACTIVE"), "release",
    ]  # fmt: skip


def test_a_gpio_line_that_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    monkeypatch.setattr("gpiod.request_lines", lines.request)
    node = live(gpio={"line": "valve"}, tolerance=10.0)
    node.open()
    lines.broken = True

    with pytest.raises(DeviceError, match=r"sort: cannot set line 'valve' of .*No such device"):
        feed(node, particle(0), origin=time.monotonic_ns())


def test_a_gpio_chip_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot use line 3 of .*nothing.*gpioinfo"):
        live(gpio={"chip": str(tmp_path / "nothing"), "line": 3}).open()


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_port_that_is_unplugged_ends_the_run_with_one_clear_error() -> None:
    terminal = Terminal()
    node = live(serial={"port": terminal.path}, tolerance=10.0)
    node.open()
    terminal.unplug()

    with pytest.raises(DeviceError, match=r"sort: cannot write to serial port .*plugged in"):
        feed(node, particle(0), origin=time.monotonic_ns())


def test_a_port_that_comes_back_is_used_again_and_what_passed_meanwhile_is_aborted(
    terminal: Terminal, tmp_path: Path
) -> None:
    first, path = Terminal(), tmp_path / "port"
    path.symlink_to(first.path)
    node = live(serial={"port": str(path)}, tolerance=10.0, reopen=0.01)
    node.open()
    first.unplug()
    origin = time.monotonic_ns()
    assert node._thread is not None
    thread = node._thread

    feed(node, particle(0), origin=origin, end=False)
    wait_for(lambda: thread.done or node._actions)  # which the node may have taken already
    path.unlink()
    path.symlink_to(terminal.path)
    wait_for(lambda: thread.reopened)
    now = (time.monotonic_ns() - origin) // 1000
    out = drive(node, opened=True, rows=[table(rows_of(particle(now)), 2_000_000, 2_000_001)])

    assert out.results["aborted"] == {"actuator": 1}
    assert (out.results["pulses"], out.results["reopened"]) == (1, 1)
    assert terminal.text(4) == b"0100"


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"delay": None}, "one of 'delay'"),
        ({"distance": 0.1}, "one of 'delay'"),
        ({"zmq": {"address": "ipc:///x"}, "gpio": {"line": 1}}, "at most one"),
        ({"timing": "stream", "gpio": {"line": 1}}, "'stream' drives nothing"),
        ({"serial": {"port": "/dev/null", "on": "\u20ac"}}, r"serial.on.*each one byte"),
        ({"serial": {"port": "/nowhere/tty"}}, "cannot open serial port /nowhere/tty"),
        ({"serial": {"port": "nonsense://x"}}, "cannot open serial port nonsense"),
        ({"serial": {"port": "loop://", "on": ""}}, "serial.on"),  # nothing would ever be sorted
        ({"spin": 1.0}, "spin"),  # nobody could hand over a row meanwhile
        *(
            ({name: float("inf")}, rf"{name} is inf s; expected less than 1e\+06 s")
            for name in (
                "delay",
                "longest_delay",
                "width",
                "tolerance",
                "guard",
                "dead_time",
                "reopen",
            )
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(plain: dict[str, Any], said: str) -> None:
    with pytest.raises((NodeError, DeviceError), match=said):
        live(**plain).open()


@pytest.mark.parametrize("wrong", [{"baud": 1 << 40}, {"off": 100_000 * "0"}])
def test_a_port_that_cannot_be_set_up_is_one_clear_error_and_is_let_go(
    wrong: dict[str, Any],
) -> None:
    master, slave = os.openpty()  # of which nobody reads
    path = os.ttyname(slave)
    os.close(slave)

    with pytest.raises(DeviceError, match=f"cannot open serial port {path}") as refused:
        live(serial={"port": path, **wrong}).open()

    mine = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert path not in [os.readlink(fd) for fd in mine if fd.is_symlink()], refused
    os.close(master)


class Valve:
    """An actuator that breaks at its first pulse, and a second one that is slow to open."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.ready = threading.Event()

    def __call__(self) -> Valve:
        self.opened += 1
        if self.opened > 1:
            assert self.ready.wait(20)
        return self

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        if self.opened == 1:
            raise DeviceError("broken")

    def close(self) -> None:
        self.closed += 1


def broken(valve: Valve) -> PulseThread:
    """A thread that waits for `valve` to open again."""
    thread = PulseThread(Sorter(Rules("yield", 1000, tolerance=10**12)), valve, spin=0, retry=0.001)
    thread.start()
    with thread.condition:
        now = time.monotonic_ns()
        thread.sorter.add(0, now, now, 0.0, "A")
        thread.condition.notify_all()
    wait_for(lambda: valve.opened == 2)
    return thread


class Switch:
    """An actuator that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        self.told.append(is_on)

    def close(self) -> None:
        pass


def test_a_thread_that_wakes_late_does_not_cut_a_prolonged_pulse_in_two() -> None:
    switch, rules = Switch(), Rules("yield", 20_000_000, tolerance=10**12)
    thread = PulseThread(Sorter(rules), lambda: switch, spin=0, retry=None)
    thread.start()

    with thread.condition:  # while this is held, the thread cannot do what is due
        now = time.monotonic_ns()
        for number, arrival in enumerate((now, now + 10_000_000)):
            thread.sorter.add(number, arrival, now - 20_000_000, 0.0, "A")
        wait_for(lambda: time.monotonic_ns() > now + 40_000_000)
        thread.condition.notify_all()
    thread.wait_until_idle()
    thread.close()

    assert switch.told == [True, False]
    assert [row.action for row in thread.done] == ["pulsed", "merged_pulse"]


def test_rows_are_taken_while_a_device_is_slow_to_open_again() -> None:
    valve = Valve()
    thread = broken(valve)

    was_free = thread.condition.acquire(timeout=10)
    if was_free:
        thread.condition.release()
    valve.ready.set()
    wait_for(lambda: thread.reopened == 1)
    thread.close()

    assert was_free
    assert [row.action for row in thread.done] == ["actuator"]


def test_a_device_that_opens_after_the_end_is_closed_again() -> None:
    valve = Valve()
    thread = broken(valve)

    closing = threading.Thread(target=thread.close)
    closing.start()
    wait_for(lambda: thread._is_over)
    valve.ready.set()
    closing.join(20)

    assert wait_for(lambda: valve.closed == 2)  # when it broke, and then
    assert thread.reopened == 0


def test_pulses_without_a_real_clock_are_refused() -> None:
    with pytest.raises(NodeError, match=r"clock is 'fast'.*--clock paced.*'stream'"):
        SortTrigger({"classes": ["A"], "delay": 0.01}).open()


def test_the_process_has_its_priority_until_the_node_closes() -> None:
    before = os.sched_getscheduler(0)
    node = live(priority=1, tolerance=10.0)
    try:
        node.open()
    except NodeError:
        node.close()
        pytest.skip("this user may not ask for a real-time priority (CAP_SYS_NICE)")
    during = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority

    out = feed(node, particle(0), origin=time.monotonic_ns())

    assert during == (os.SCHED_FIFO, 1)
    assert os.sched_getscheduler(0) == before
    assert out.results["pulses"] == 1


def test_a_priority_that_is_not_permitted_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)

    with pytest.raises(NodeError, match=r"priority 9 is not permitted.*CAP_SYS_NICE.*set priority"):
        live(priority=9).open()


def test_a_table_without_the_columns_is_refused_with_what_it_has() -> None:
    rows = np.zeros(1, [("time_us", "<f8"), ("class", "S4")])

    with pytest.raises(NodeError, match=r"without \['velocity_m_s'\].*'time_us'"):
        drive(stream(delay=None, distance=0.001), rows=[table(rows, 0, 1)])


def test_a_table_needs_no_more_than_time_and_class() -> None:
    rows = np.array([(5.0, "A"), (9000.0, "größe")], [("time_us", "<f4"), ("class", "U8")])

    out = drive(stream(), rows=[table(rows, 0, 10), table(rows[:0].copy(), 20, 30)])

    assert (out.results["pulsed"], out.results["not_target"]) == (1, 1)
    assert out.results["classes"] == {"A": 1, "größe": 1}


# --- restarts -------------------------------------------------------------------------------------


def test_a_successor_pulses_what_is_to_come_and_nothing_twice(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    first = live(tolerance=10.0, log=str(log))
    first.open()
    origin = time.monotonic_ns()
    rows = [particle(0), particle(400_000), particle(1_500_000)]
    feed(first, *rows, origin=origin, end=False)
    state = first.snapshot()  # taken when at most the first row was pulsed
    covered = [line["action"] for line in read_log(log)] if log.stat().st_size else []
    planned = wait_for(lambda: (head := first._sorter.head) and head.number == 2 and head)
    wait_for(lambda: first._thread is not None and first._thread.pulses == 2)
    first.close()  # as a killed process: what came after the snapshot is forgotten

    second = live(tolerance=10.0, log=str(log))
    second.open()
    second.restore(state)
    out = drive(second, opened=True)

    assert len(covered) < 2
    assert_closed(out.results)
    assert out.results["rows"] == 3
    assert out.results["aborted"] == {"restarted": 2 - len(covered)}
    assert actions(log)[2] == "pulsed"
    (pulsed,) = [line for line in read_log(log) if line["row"] == "2"]
    assert int(pulsed["due_ns"]) == planned.start == origin + 1_500_500_000


def test_rows_that_come_again_after_their_time_are_not_pulsed_again() -> None:
    origin = time.monotonic_ns()  # before the successor is there
    node = live(tolerance=10.0)
    wait_for(lambda: time.monotonic_ns() > origin + 2_000_000)
    node.open()

    out = feed(node, particle(0), particle(600_000), origin=origin)

    assert out.results["aborted"] == {"restarted": 1}
    assert out.results["pulsed"] == 1


# --- whole graphs ---------------------------------------------------------------------------------

SORTED = f"""
name: sort
nodes:
  camera: {{kind: event_file, settings: {{path: {GRAPH}/sample.raw, width: 64, height: 48}}}}
  bursts:
    kind: burst_trigger
    inputs: {{events: camera.events}}
    settings: {{window: 0.001, contrast: 300, minimum_events: 200}}
  linear:
    kind: count_classifier
    inputs: {{bursts: bursts.bursts}}
    settings: {{model: {GRAPH}/linear.npz}}
  sort:
    kind: sort_trigger
    inputs: {{events: camera.events, rows: linear.particles}}
    settings: {{classes: [A], delay: DELAY, mode: yield, tolerance: 0.02, log: log.csv, DEVICE}}
processes:
  hot: {{nodes: [bursts, linear]}}
  sort: {{nodes: [sort], restart: {{when: on_failure, backoff: 0.05}}}}
"""


def running(folder: Path, device: str, delay: float, speed: float = 1.0) -> Run:
    text = SORTED.replace("DEVICE", device).replace("DELAY", str(delay))
    return Run(folder, text + f"clock: paced\nspeed: {speed}\n")


def pulses_logged(folder: Path) -> int:
    log = folder / "log.csv"
    return log.read_text().count(",pulsed,") if log.exists() else 0


def test_a_process_that_was_stopped_makes_no_late_pulse(terminal: Terminal, tmp_path: Path) -> None:
    run = running(tmp_path / "run", f"serial: {{port: {terminal.path}}}", 0.1)
    run.wait_for(lambda: pulses_logged(run.folder) >= 3)
    pid = run.pids()["sort"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)  # of a recording of 2 s with 46 particles a second
    os.kill(pid, signal.SIGCONT)

    assert run.end() == 0, run.err

    report = run.report
    results, log = report["results"]["sort"], read_log(run.folder / "log.csv")
    assert results["rows"] == report["nodes"]["linear"]["items_out"] == len(log)
    assert_closed(results)
    assert results["aborted"]["late"] >= 3
    fired = [line for line in log if line["fired_ns"]]
    assert len(fired) == results["pulsed"]
    assert all(
        int(line["due_ns"]) <= int(line["fired_ns"]) <= int(line["deadline_ns"]) for line in fired
    )
    assert terminal.text(2 + 2 * results["pulses"]) == b"0" + results["pulses"] * b"10" + b"0"
    heard = [stamp for stamp, data in terminal.heard if data == b"1"]
    starts = [int(line["fired_ns"]) for line in fired if line["action"] == "pulsed"]
    assert all(at >= start for at, start in zip(heard, starts, strict=True))


def test_a_killed_process_pulses_no_particle_twice(sockets: Sockets, tmp_path: Path) -> None:
    pull = sockets(zmq.PULL)
    pull.bind(f"ipc://{tmp_path}/pulses")
    device = f"zmq: {{address: 'ipc://{tmp_path}/pulses', pattern: push, bind: false}}"
    # four times 1.25 s of delay: longer than a restart takes on a busy machine
    run = running(tmp_path / "run", device, 1.25, 0.25)
    run.wait_for(lambda: pulses_logged(run.folder) >= 1)
    run.kill("sort")
    before = pulses_logged(run.folder)

    assert run.end() == 0, run.err

    messages = []
    while pull.poll(0):
        messages.append(json.loads(pull.recv()))
    told = [message["row"] for message in messages if message["pulse"] == "on"]
    results, log = run.report["results"]["sort"], read_log(run.folder / "log.csv")
    assert run.report["nodes"]["sort"]["restarts"] == 1
    assert len(told) == len(set(told))
    assert_closed(results)
    assert sorted(int(line["row"]) for line in log) == list(range(results["rows"]))
    assert {int(line["row"]) for line in log if line["action"] == "pulsed"} <= set(told)
    known = {int(line["row"]): line["action"] for line in log}
    assert {known[row] for row in told} <= {"pulsed", "restarted"}
    # it went on after the restart; what was told last may not have been logged before the kill
    assert len(told) > before + 1
