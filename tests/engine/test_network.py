"""Who gets in, and who does not: real sockets on loopback, hostile clients included."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

from streamflow.consumer_end import Arrival, Gap, InLink
from streamflow.errors import PacketError, TransportError
from streamflow.network import (
    Gate,
    HostClient,
    HostServer,
    Joiner,
    Keys,
    Listener,
    Security,
    address_towards,
    is_loopback,
    new_keys,
    read_allowed,
    read_public,
    read_secret,
    write_keys,
)
from streamflow.packet import Header, Table, data_frame, describe
from streamflow.packing import LZ4, ZSTD, codec, unpack

LIMIT = 20.0
LEGACY = bytes([1, 0, 6, 0]) + b"HELLO"  # ZMTP 1.0: a bare socket would take it for a message
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


def talk(server: HostServer, client: HostClient) -> bool:
    """Whether a message of this very client gets through."""
    end, word = time.monotonic() + LIMIT, os.urandom(8).hex()
    while time.monotonic() < end:
        client.restart()
        client.send("join", run=word)
        if any(message["run"] == word for _caller, message in server.receive()):
            return True
        client.receive()
        time.sleep(0.02)
    return False


def is_refused(server: HostServer, client: HostClient, words: str) -> bool:
    """Whether the client is told so, and nothing that it sends meanwhile gets through."""
    end, word = time.monotonic() + LIMIT, os.urandom(8).hex()
    while words not in client.trouble and time.monotonic() < end:
        client.restart()
        client.send("join", run=word)
        client.receive()
        time.sleep(0.01)
    got_in = any(message["run"] == word for _caller, message in server.receive())
    return words in client.trouble and not got_in


# --- the host's door ------------------------------------------------------------------------------


def test_only_the_allowed_key_reaches_a_host() -> None:
    host, mine, stranger = new_keys(), new_keys(), new_keys()
    server = HostServer("127.0.0.1:*", host, [mine.public])
    good = HostClient(server.address, mine, host.public, b"sgood")
    strangers = {
        "unknown": (stranger, host.public, "it does not allow our key"),
        "plain": (None, b"", "only one of the two ends uses keys"),
        "wrong server": (mine, new_keys().public, "its key is not the one that the graph names"),
    }

    assert talk(server, good)
    for name, (keys, public, words) in strangers.items():
        client = HostClient(server.address, keys, public, b"s" + name.encode())
        assert is_refused(server, client, words), name
        client.close()
    good.close()
    server.close()


def test_a_client_with_keys_finds_a_host_without_and_is_told() -> None:
    server = HostServer("127.0.0.1:*", None, [])
    client = HostClient(server.address, new_keys(), new_keys().public, b"s1")
    assert is_refused(server, client, "only one of the two ends uses keys")
    client.close()
    server.close()


def test_the_secret_of_a_key_is_never_shown() -> None:
    keys = new_keys()
    assert keys.secret.decode() not in repr(keys) + str(keys) + f"{keys}"


@pytest.mark.parametrize("keys", [None, new_keys()], ids=["plain", "keys"])
def test_junk_from_the_network_is_refused_and_good_peers_are_served(keys: Keys | None) -> None:
    mine = new_keys() if keys else None
    server = HostServer("127.0.0.1:*", keys, [mine.public] if mine else [])
    name, port = server.address.split(":")
    silent = [socket.create_connection((name, int(port))) for _ in range(200)]
    loris = socket.create_connection((name, int(port)))
    junk = [LEGACY, os.urandom(4096), GREETING + READY + b"\x02" + struct.pack(">Q", 3 << 30)]
    for data in junk:
        with socket.create_connection((name, int(port))) as hostile:
            hostile.sendall(data)
    client = HostClient(server.address, mine, keys.public if keys else b"", b"s1")
    for byte in GREETING[:6]:
        loris.sendall(bytes([byte]))
        assert server.receive() == []
    assert talk(server, client)
    for connection in [*silent, loris]:
        connection.close()
    client.close()
    server.close()


def test_a_message_of_ten_thousand_parts_is_counted_and_thrown_away(context: zmq.Context) -> None:
    server = HostServer("127.0.0.1:*", None, [])
    hostile = context.socket(zmq.DEALER)
    hostile.linger = 0
    hostile.connect(f"tcp://{server.address}")
    hostile.send_multipart([b"x"] * 10_000)
    wait_for(lambda: server.receive() == [] and server.refused)
    hostile.close()
    client = HostClient(server.address, None, b"", b"s1")
    assert talk(server, client)
    client.close()
    server.close()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa2op\x01"])
def test_what_is_no_message_between_hosts_is_counted(context: zmq.Context, body: bytes) -> None:
    server = HostServer("127.0.0.1:*", None, [])
    hostile = context.socket(zmq.DEALER)
    hostile.linger = 0
    hostile.connect(f"tcp://{server.address}")
    hostile.send(body)
    wait_for(lambda: server.receive() == [] and server.refused == 1)
    hostile.close()
    server.close()


def test_an_address_in_use_is_told() -> None:
    server = HostServer("127.0.0.1:*", None, [])
    with pytest.raises(TransportError, match=r"cannot listen at 127\.0\.0\.1"):
        HostServer(server.address, None, [])
    server.close()


# --- an edge's connection -------------------------------------------------------------------------


def joined(context: zmq.Context, *, secure: bool) -> tuple[Listener, Joiner, Gate | None]:
    ours, theirs = (new_keys(), new_keys()) if secure else (None, None)
    token, gate = b"e" + os.urandom(15), None
    if theirs is not None:
        gate = Gate(context)
        gate.allow("edge 1", [theirs.public])
    listener = Listener(
        context, "127.0.0.1", 1 << 20, Security(token, ours, theirs.public if theirs else b""),
        "edge 1",
    )  # fmt: skip
    joiner = Joiner(
        context, listener.address, 1 << 20, Security(token, theirs, ours.public if ours else b"")
    )
    joiner.send(b"hello")
    assert wait_for(listener.receive) == b"hello"
    return listener, joiner, gate


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "keys"])
def test_only_the_peer_with_the_token_is_heard_and_answered(
    context: zmq.Context, secure: bool
) -> None:
    listener, joiner, gate = joined(context, secure=secure)
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    refusal = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    stranger.connect(f"tcp://{listener.address}")
    stranger.send(b"give me your data")
    if secure:
        assert refusal.poll(1000 * LIMIT)
        assert listener.receive() is None
        assert listener.refused == 0  # it did not even get in
    else:
        wait_for(lambda: listener.receive() is None and listener.refused == 1)
    assert listener.send(b"data")
    assert wait_for(joiner.receive) == b"data"
    with pytest.raises(zmq.Again):
        stranger.recv(zmq.NOBLOCK)
    stranger.disable_monitor()
    refusal.close()
    stranger.close()
    for channel in (joiner, listener):
        channel.close()
    if gate is not None:
        gate.stop()


def test_the_key_of_one_edge_opens_no_other(context: zmq.Context) -> None:
    ours, one, other = new_keys(), new_keys(), new_keys()
    gate, token = Gate(context), b"e" + os.urandom(15)
    gate.allow("edge 1", [one.public])
    gate.allow("edge 2", [other.public])
    listener = Listener(
        context, "127.0.0.1", 1 << 20, Security(token, ours, other.public), "edge 2"
    )
    stranger = context.socket(zmq.DEALER)  # whoever has the token, and a key of the same run
    stranger.linger = 0
    stranger.routing_id = token
    stranger.curve_serverkey = ours.public
    stranger.curve_publickey, stranger.curve_secretkey = one
    refusal = stranger.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED
    )
    stranger.connect(f"tcp://{listener.address}")
    stranger.send(b"hello")

    assert refusal.poll(1000 * LIMIT)
    event = parse_monitor_message(refusal.recv_multipart())["event"]
    joiner = Joiner(context, listener.address, 1 << 20, Security(token, other, ours.public))
    joiner.send(b"hello from the peer")

    assert event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert wait_for(listener.receive) == b"hello from the peer"
    stranger.disable_monitor()
    for channel in (refusal, stranger, joiner, listener):
        channel.close()
    gate.stop()


def test_a_frame_over_the_edges_maximum_ends_the_connection(context: zmq.Context) -> None:
    listener, joiner, _gate = joined(context, secure=False)
    joiner.send(bytes((1 << 20) + 1))
    wait_for(joiner.is_lost)
    assert listener.receive() is None
    for channel in (joiner, listener):
        channel.close()


def test_a_broken_connection_is_noticed_and_not_made_again(context: zmq.Context) -> None:
    listener, joiner, _gate = joined(context, secure=False)
    patient = context.socket(zmq.DEALER)
    patient.reconnect_ivl = 400  # ms: ZeroMQ's own choice is 100 to 200, the joiner's would be
    patient.connect(f"tcp://{listener.address}")
    patient.send(b"before")
    wait_for(lambda: listener.receive() is None and listener.refused == 1)
    listener.close()
    wait_for(joiner.is_lost)
    again = context.socket(zmq.ROUTER)
    comers = again.get_monitor_socket(zmq.EVENT_ACCEPTED)
    wait_for(lambda: bound(again, listener.address))
    patient.send(b"after")

    assert again.poll(1000 * LIMIT)  # whoever connects again has done so by now

    comers.recv_multipart(zmq.NOBLOCK)
    with pytest.raises(zmq.Again):
        comers.recv_multipart(zmq.NOBLOCK)
    assert joiner.receive() is None
    again.disable_monitor()
    for channel in (comers, again, patient, joiner):
        channel.close()


def bound(socket: zmq.Socket[bytes], address: str) -> bool:
    """Whether the socket listens there now; the one before may not be gone yet."""
    try:
        socket.bind(f"tcp://{address}")
    except zmq.ZMQError:
        return False
    return True


# --- keys -----------------------------------------------------------------------------------------


def test_keys_are_certificates_that_zeromq_reads_and_only_the_owner(tmp_path: Path) -> None:
    public, secret = write_keys(tmp_path / "keys", "me")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert zmq.auth.load_certificate(str(secret)) == tuple(read_secret(secret))
    assert zmq.auth.load_certificate(str(public))[0] == read_public(public)
    assert read_allowed([tmp_path / "keys"]) == {read_public(public)}


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_keys(tmp_path, "me")
    with pytest.raises(TransportError, match="is there already"):
        write_keys(tmp_path, "me")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    _public, secret = write_keys(tmp_path, "me")
    secret.chmod(mode)
    with pytest.raises(TransportError, match="chmod 600"):
        read_secret(secret)


@pytest.mark.parametrize("text", ["", "public-key = short", "curve\n", "\x00\xff" * 50])
def test_a_damaged_key_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TransportError, match=r"x\.key"):
        read_public(path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="streamflow keys new"):
        read_secret(tmp_path / "me.key_secret")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.8.8.8:1", True),
     ("0.0.0.0:1", False), ("10.0.0.1:1", False), ("lab.example:1", False), ("[::]:1", False)],
)  # fmt: skip
def test_only_loopback_addresses_pass_for_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_the_address_that_a_host_is_reached_from() -> None:
    assert address_towards("127.0.0.1:7600") == "127.0.0.1"


# --- packed payloads ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_packed_payloads_come_back_and_never_grow_past_what_is_declared(name: Any) -> None:
    data = b"abc" * 1000
    made = codec(name)
    packed = made.pack(data)
    assert len(packed) < len(data) / 10
    assert unpack(made.slot, packed, len(data)).tobytes() == data
    for declared in (len(data) - 1, len(data) + 1, 0):
        with pytest.raises(PacketError):
            unpack(made.slot, packed, declared)
    for junk in (b"", b"junk", packed[:-3], os.urandom(64)):
        with pytest.raises(PacketError):
            unpack(made.slot, junk, len(data))


def test_a_codec_that_nobody_knows_is_refused() -> None:
    assert {LZ4, ZSTD} == {-2, -3}
    with pytest.raises(PacketError):
        unpack(-9, b"", 1)


# --- a gap ----------------------------------------------------------------------------------------


def frame(sequence: int) -> bytes:
    table = Table(np.zeros(1, [("n", "<i8")]))
    meta = describe(table)
    header = Header(sequence, 0, 1, 0, 0, 1, table.array.nbytes, -1, len(meta))
    return data_frame(header, meta, table.array.tobytes())


@pytest.mark.parametrize("lossless", [True, False])
def test_a_missing_packet_of_a_lossless_edge_is_noticed_but_not_the_first_of_a_connection(
    context: zmq.Context, lossless: bool
) -> None:
    listener, joiner, _gate = joined(context, secure=False)
    link = InLink(Table, 8, None, lossless=lossless)
    link.attach(joiner)
    taken: list[int] = []

    def take(upto: int) -> bool:
        taken.extend(a.header.sequence for a in link.receive() if isinstance(a, Arrival))
        return taken[-1:] == [upto]

    for sequence in (5, 6):  # the greeting asked for what follows 4
        listener.send(frame(sequence))
    wait_for(lambda: take(6))
    listener.send(frame(8))
    if lossless:
        with pytest.raises(Gap):
            wait_for(lambda: take(8))
    else:
        wait_for(lambda: take(8))
    assert taken == ([5, 6] if lossless else [5, 6, 8])
    for channel in (joiner, listener):
        channel.close()
