"""RTP comes out in order and in time, whatever a network does to it.

The network is simulated in the tests of the jitter buffer, whose times come in; the nodes meet over
real sockets of this machine. No other machine and no other RTP program was had.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.audio.rtp import (
    JitterBuffer,
    Piece,
    RtpPacket,
    build_rtp,
    conceal,
    decode_l16,
    encode_l16,
    parse_rtp,
    pitch_period,
)
from streamflow_nodes.audio.samples import sample_time
from streamflow_nodes.sinks.rtp_audio_sender import RtpAudioSender
from streamflow_nodes.sources.rtp_audio import RtpAudio

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Samples
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live import LIMIT, Live

RATE, SIZE = 8000, 80  # packets of 10 ms
MS = 1_000_000  # ns
TARGET = 40 * MS
WAY = 7 * MS


def sound(frames: int, channels: int = 1) -> Any:
    """Noise that 16 bits hold exactly, (frames, channels) float32."""
    whole = np.random.default_rng(frames).integers(-30_000, 30_000, (frames, channels))
    return (whole / 32768).astype(np.float32)


@dataclass
class Network:
    """Packets of 10 ms, each with the time (ns) at which it arrives."""

    count: int
    origin: int = (1 << 32) - 3 * SIZE  # timestamps and sequence numbers wrap soon
    first: int = (1 << 16) - 2
    ssrc: int = 5
    arrivals: list[tuple[int, RtpPacket]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.samples = sound(self.count * SIZE)
        for number in range(self.count):
            piece = self.samples[number * SIZE : (number + 1) * SIZE]
            packet = RtpPacket(
                (self.first + number) % (1 << 16),
                (self.origin + number * SIZE) % (1 << 32),
                self.ssrc,
                96,
                number == 0,
                encode_l16(piece)[0],
            )
            self.arrivals.append((number * 10 * MS + WAY, packet))


def play(
    arrivals: list[tuple[int, RtpPacket]], buffer: JitterBuffer | None = None, tail: int = 0
) -> tuple[JitterBuffer, list[tuple[int, Piece]]]:
    """Each piece with the time (ns) it left at, to the millisecond; `tail` is what follows."""
    buffer = buffer or JitterBuffer(RATE, 1, TARGET)
    out: list[tuple[int, Piece]] = []
    waiting = sorted(arrivals, key=lambda a: a[0])
    now, end = waiting[0][0], waiting[-1][0] + MS + tail
    while now <= end:
        while waiting and waiting[0][0] <= now:
            at, packet = waiting.pop(0)
            frames = decode_l16(packet.payload, 1)
            assert frames is not None
            buffer.put(packet, frames, at)
        out += [(now, piece) for piece in buffer.take(now)]
        now += MS
    out += [(now, piece) for piece in buffer.rest(now)]
    return buffer, out


def joined(out: list[tuple[int, Piece]]) -> Any:
    """All samples; the pieces must follow each other."""
    at = out[0][1].first
    for _, piece in out:
        assert piece.first == at
        at += len(piece.frames)
    return np.concatenate([piece.frames for _, piece in out])


def faults(buffer: JitterBuffer) -> dict[str, int]:
    return {name: times for name, times in buffer.faults.items() if times}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.booleans())
def test_late_reordered_and_doubled_packets_within_the_delay_change_nothing(
    seed: int, doubled: bool
) -> None:
    network, dice = Network(60), random.Random(seed)
    moved = [(at + dice.randrange(0, 39) * MS * bool(n), p) for n, (at, p) in
             enumerate(network.arrivals)]  # fmt: skip
    again = [(at + dice.randrange(0, 20) * MS, p) for at, p in moved[1::7]] if doubled else []

    buffer, out = play(moved + again)

    np.testing.assert_array_equal(joined(out), network.samples)
    assert set(faults(buffer)) <= {"duplicate"}
    assert buffer.faults["duplicate"] == len(again)
    assert buffer.lost == 0
    for left, piece in out[:-10]:  # the rest left at once at the end
        due = WAY + TARGET + piece.first * 1_000_000_000 // RATE
        assert due <= left < due + MS


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(1, 58), max_size=30))
def test_a_loss_costs_its_own_samples_and_no_delay(gone: set[int]) -> None:
    network = Network(60)

    buffer, out = play([a for n, a in enumerate(network.arrivals) if n not in gone])

    got = joined(out)
    assert len(got) == len(network.samples)
    for number in range(60):
        if number not in gone:
            span = slice(number * SIZE, (number + 1) * SIZE)
            np.testing.assert_array_equal(got[span], network.samples[span])
    assert buffer.faults["concealed"] == len(gone) * SIZE
    assert buffer.lost == len(gone)
    for left, piece in out:
        assert left - WAY - piece.first * 1_000_000_000 // RATE < TARGET + MS


def test_a_stall_that_ends_in_a_burst_leaves_no_delay_behind() -> None:
    network = Network(200)
    stalled = [(max(at, 1_300 * MS) if 500 * MS < at < 1_300 * MS else at, p)
               for at, p in network.arrivals]  # fmt: skip

    buffer, out = play(stalled)

    got = joined(out)
    assert faults(buffer).keys() == {"concealed", "late"}
    np.testing.assert_array_equal(got[: 49 * SIZE], network.samples[: 49 * SIZE])
    np.testing.assert_array_equal(got[135 * SIZE :], network.samples[135 * SIZE :])
    assert max(left - WAY - piece.first * 1_000_000_000 // RATE for left, piece in out) < (
        TARGET + MS
    )


def test_a_way_that_grows_longer_is_followed() -> None:
    network = Network(300)
    longer = [(at + 500 * MS * (n >= 100), p) for n, (at, p) in enumerate(network.arrivals)]

    buffer, out = play(longer)

    got = joined(out)
    assert buffer.faults["moved"] == 1
    np.testing.assert_array_equal(got[-100 * SIZE :], network.samples[-100 * SIZE :])
    waits = [left - piece.arrived for left, piece in out[-100:-10]]
    assert max(waits) <= TARGET + MS
    assert buffer.faults["late"] <= 25  # 0.2 s


@pytest.mark.parametrize("ppm", [-1000, 1000])
def test_a_clock_that_runs_wrong_adds_nothing_to_the_delay(ppm: int) -> None:
    network = Network(2500)  # 25 ms of drift, which is most of the delay
    drifting = [(WAY + (at - WAY) * (1_000_000 + ppm) // 1_000_000, p) for at, p in
                network.arrivals]  # fmt: skip

    buffer, out = play(drifting)

    np.testing.assert_array_equal(joined(out), network.samples)
    assert not faults(buffer)
    waits = [left - piece.arrived for left, piece in out[:-10]]
    assert max(waits) <= TARGET + MS
    assert min(waits) >= TARGET - 10 * MS  # a slow clock is seen when 8 s have passed


def test_a_sender_that_begins_anew_goes_on_where_the_stream_stands() -> None:
    first, second = Network(50), Network(50, origin=77_000, first=9, ssrc=6)
    later = [(at + 700 * MS, p) for at, p in second.arrivals]
    stranger = replace(first.arrivals[0][1], ssrc=99, sequence=500)

    buffer, out = play([*first.arrivals, (200 * MS, stranger), *later])

    got = joined(out)
    np.testing.assert_array_equal(got[: 50 * SIZE], first.samples)
    # its first packet was not believed before the second
    np.testing.assert_array_equal(got[-49 * SIZE :], second.samples[SIZE:])
    assert buffer.faults["restart"] == 1
    assert buffer.faults["unconfirmed"] == 2
    assert len(got) < (50 + 50 + 30) * SIZE


def test_a_restarted_buffer_goes_on_with_the_same_sender() -> None:
    network = Network(100)
    before, begun = play(network.arrivals[:50])
    stood = before.position
    after = JitterBuffer(RATE, 1, TARGET)

    after.restore(before.snapshot())
    _, out = play(network.arrivals[70:], after)

    got = joined(out)
    assert out[0][1].first == stood == sum(len(piece.frames) for _, piece in begun)
    np.testing.assert_array_equal(got[-30 * SIZE :], network.samples[70 * SIZE :])


def test_silence_goes_on_when_the_sender_stops() -> None:
    network = Network(20)

    _, out = play(network.arrivals, tail=2_000 * MS)

    got = joined(out)
    assert len(got) * 1_000 / RATE == pytest.approx(190 + 2_000 - TARGET / MS, abs=20)
    assert got[20 * SIZE :].any()  # the last sound fades,
    assert not got[20 * SIZE + round(0.06 * RATE) :].any()  # and is gone after 60 ms


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("hertz", [80.0, 130.0, 333.0])
def test_a_voice_like_sound_is_made_up_better_than_by_silence(rate: int, hertz: float) -> None:
    at = np.arange(rate) / rate
    voice = sum(np.sin(2 * np.pi * hertz * n * at + n) / n for n in range(1, 6))
    whole = (0.1 * voice).astype(np.float32)[:, None]
    begin, count = rate // 2, rate // 100
    history = whole[begin - rate // 25 : begin]

    period = pitch_period(history, rate)
    made = conceal(history, 0, count, period, rate)

    error = np.sum((made - whole[begin : begin + count]) ** 2)
    assert abs(period - round(rate / hertz * max(1, round(period * hertz / rate)))) <= 1
    assert error < 0.1 * np.sum(whole[begin : begin + count] ** 2)


@given(st.binary(max_size=60))
def test_no_datagram_breaks_the_reader(datagram: bytes) -> None:
    packet = parse_rtp(datagram)

    if packet is not None:
        assert len(packet.payload) <= len(datagram) - 12
        decode_l16(packet.payload, 2)


def test_extension_sources_and_padding_are_not_sound() -> None:
    plain = build_rtp(RtpPacket(7, 8, 9, 96, True, b"abcd"))
    full = bytes([0xB2]) + plain[1:12] + bytes(8) + b"\0\0\0\1" + bytes(4) + b"abcd" + b"\0\0\3"

    assert parse_rtp(full) == parse_rtp(plain) == RtpPacket(7, 8, 9, 96, True, b"abcd")


def packets(samples: Any, sizes: list[int], rate: int = RATE, first: int = 0) -> list[Any]:
    out, at = [], 0
    for size in [*sizes, len(samples)]:
        piece, begin = samples[at : at + size].copy(), first + at
        stop = sample_time(begin + len(piece), rate)
        out.append(Packet(sample_time(begin, rate), stop, Samples(piece, rate, begin)))
        at = min(at + size, len(samples))
    return out


@pytest.fixture
def receiver() -> Iterator[Any]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.settimeout(LIMIT)
        yield found


def received(receiver: Any, count: int) -> list[RtpPacket]:
    out = []
    for _ in range(count):
        packet = parse_rtp(receiver.recv(1 << 16))
        assert packet is not None
        out.append(packet)
    return out


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(0, 700), max_size=6), cut=st.integers(0, 6))
def test_what_is_sent_depends_neither_on_packets_nor_on_a_restart(
    sizes: list[int], cut: int
) -> None:
    samples = sound(2_000, 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(LIMIT)
        to = {"port": receiver.getsockname()[1], "packet_duration": 0.03}
        each = packets(samples, sizes)
        before = RtpAudioSender(to)
        drive(before, samples=each[:cut], end=False)
        after = RtpAudioSender(to)
        after.open()
        after.restore(before.snapshot())
        before.close()
        out = drive(after, samples=each[cut:], opened=True)
        got = received(receiver, 9)

    assert out.results == {"host": "127.0.0.1", "port": to["port"], "packets": 9, "frames": 2_000}
    assert [len(p.payload) // 4 for p in got] == [240] * 8 + [80]
    steps = np.diff([p.timestamp for p in got]) % (1 << 32)
    assert steps.tolist() == [240] * 8
    assert (np.diff([p.sequence for p in got]) % (1 << 16)).tolist() == [1] * 8
    assert [p.marker for p in got] == [True] + [False] * 8
    back = b"".join(p.payload for p in got)
    np.testing.assert_array_equal(decode_l16(back, 2), samples)


def test_a_sequence_number_wraps_after_65535(receiver: Any) -> None:
    node = RtpAudioSender({"port": receiver.getsockname()[1], "packet_duration": 0.01})
    node.open()
    node.restore({**node.snapshot(), "sequence": 65_534, "origin": (1 << 32) - SIZE})

    drive(node, samples=packets(sound(4 * SIZE), []), opened=True)

    got = received(receiver, 4)
    assert [p.sequence for p in got] == [65_534, 65_535, 0, 1]
    assert [p.timestamp for p in got] == [(1 << 32) - SIZE, 0, SIZE, 2 * SIZE]


def test_a_gap_is_a_step_of_the_timestamp(receiver: Any) -> None:
    samples = sound(400)
    each = [*packets(samples[:100], []), *packets(samples[300:], [], first=300)]

    out = drive(RtpAudioSender({"port": receiver.getsockname()[1]}), samples=each)

    one, two = received(receiver, 2)
    assert out.faults["missing_sample"] == 200
    assert (two.timestamp - one.timestamp) % (1 << 32) == 300
    assert two.marker


def test_a_large_frame_is_cut_to_the_datagram(receiver: Any) -> None:
    drive(
        RtpAudioSender({"port": receiver.getsockname()[1]}),
        samples=packets(sound(48_000 // 50, 2), [], rate=48_000),
    )

    assert len(received(receiver, 1)[0].payload) == 1460


def test_errors_of_the_sender_say_what_to_do() -> None:
    nowhere = RtpAudioSender({"port": 5, "host": "no such host"})
    small = RtpAudioSender({"port": 5, "datagram_bytes": 64})

    with pytest.raises(DeviceError, match="check 'host'"):
        drive(nowhere)
    with pytest.raises(NodeError, match="raise 'datagram_bytes'"):
        drive(small, samples=packets(sound(10, 27), []))


def opened(**more: Any) -> RtpAudio:
    node = RtpAudio({"port": 0, "rate": RATE, "end_after": 0.3, **more})
    node.open()
    return node


def test_two_nodes_meet_over_a_socket_and_lose_nothing() -> None:
    node = opened(channels=2)
    live, samples = Live(node), sound(8_000, 2)

    drive(RtpAudioSender({"port": node.results()["port"]}), samples=packets(samples, [333] * 20))
    live.join()

    results = node.results()
    node.close()
    assert live.error is None, live.error
    got = np.concatenate([p.data.array for p in live.packets])
    np.testing.assert_array_equal(got[: len(samples)], samples)
    assert not got[len(samples) + round(0.06 * RATE) :].any()  # the sender had stopped
    assert live.faults.keys() <= {"concealed"}
    assert (results["packets"], results["lost"]) == (50, 0)
    for packet in live.packets:
        first = packet.data.first
        assert packet.start == sample_time(first, RATE)
        assert packet.stop == sample_time(first + len(packet.data), RATE)


def test_what_is_not_this_sound_is_counted() -> None:
    node = opened(channels=2, payload_type=97)
    live = Live(node)
    good = RtpPacket(1, 0, 5, 97, True, bytes(4 * SIZE))
    wrong = {
        "malformed": [b"no RTP", build_rtp(replace(good, payload=b"odd"))],
        "other_payload": [build_rtp(replace(good, payload_type=96, marker=False))],
    }

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", node.results()["port"]))
        for datagram in [d for group in wrong.values() for d in group]:
            sender.send(datagram)
        sender.send(build_rtp(replace(good, payload_type=72)))  # RTCP, which is no fault
        sender.send(build_rtp(good))
        live.join()
    node.close()

    assert {name: live.faults[name] for name in wrong} == {"malformed": 2, "other_payload": 1}
    assert node.results()["packets"] == 1


def test_a_port_in_use_is_one_error() -> None:
    node = opened()

    with pytest.raises(DeviceError, match="choose another 'port'"):
        RtpAudio({"port": node.results()["port"]}).open()

    node.close()
