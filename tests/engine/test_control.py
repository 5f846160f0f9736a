"""Control messages and their descriptors arrive whole, and a peer's end is seen."""

from __future__ import annotations

import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.control import _LENGTH, MAXIMUM_MESSAGE, Control, peer_is_me
from streamflow.errors import TransportError

LIMIT_S = 30  # only reached when something never comes


@pytest.fixture
def pair() -> Iterator[tuple[Control, Control]]:
    here, there = (Control(end) for end in socket.socketpair())
    yield here, there
    here.close()
    there.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Control]]:
    """A socket that may send anything, and the end that must bear it."""
    peer, end = socket.socketpair()
    control = Control(end)
    yield peer, control
    peer.close()
    control.close()


def receive(control: Control, count: int) -> list[dict[str, Any]]:
    """The next `count` messages, or fewer if the peer goes."""
    messages: list[dict[str, Any]] = []
    end = time.monotonic() + LIMIT_S
    while len(messages) < count and control.open:
        assert time.monotonic() < end, f"only {len(messages)} of {count} messages came"
        select.select([control], [], [], 1)
        messages += control.receive()
    return messages


def test_messages_arrive_in_order_with_their_words(pair: tuple[Control, Control]) -> None:
    here, there = pair

    for number in range(50):
        assert here.send("count", number=number, nested={"a": [1, "b", None, 2.5, b"c"]})

    messages = receive(there, 50)
    assert [message["number"] for message in messages] == list(range(50))
    assert messages[0] == {
        "op": "count", "number": 0, "nested": {"a": [1, "b", None, 2.5, b"c"]}, "fds": [],
    }  # fmt: skip


def test_receiving_never_waits(pair: tuple[Control, Control]) -> None:
    _here, there = pair

    assert there.receive() == []
    assert there.open


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_messages_arrive_whole_however_the_stream_is_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    first, second = socket.socketpair()
    sender, receiver = Control(first), Control(second)
    for body in bodies:
        sender.send("body", body=body)
    stream = second.recv(1 << 20)
    messages = []

    at = 0
    for size in [*cuts, len(stream)]:
        if piece := stream[at : at + size]:
            first.sendall(piece)
            messages += receiver.receive()
            at += size
    assert [message["body"] for message in messages] == bodies
    sender.close()
    receiver.close()


def test_descriptors_arrive_with_their_message(pair: tuple[Control, Control]) -> None:
    here, there = pair
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as other:
        file.write(b"first")
        file.flush()
        other.write(b"second")
        other.flush()

        here.send("none")
        here.send("two", fds=[file.fileno(), other.fileno()])
        here.send("one", fds=[other.fileno()])
        messages = receive(there, 3)

    none, two, one = [message["fds"] for message in messages]
    assert none == []
    assert [os.pread(fd, 10, 0) for fd in [*two, *one]] == [b"first", b"second", b"second"]
    for fd in [*two, *one]:
        assert not os.get_inheritable(fd)
        os.close(fd)


@pytest.mark.parametrize("count", [63, 64, 65, 128, 200])
def test_more_descriptors_than_fit_one_message_of_the_kernel_arrive_in_order(
    pair: tuple[Control, Control], count: int
) -> None:
    here, there = pair
    files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  # closed below
    for number, file in enumerate(files):
        file.write(b"%d" % number)
        file.flush()

    here.send("before", fds=[files[0].fileno()])
    here.send("many", fds=[files[number % 3].fileno() for number in range(count)])
    here.send("after", fds=[files[2].fileno()])
    before, many, after = receive(there, 3)

    assert [os.pread(fd, 1, 0) for fd in before["fds"]] == [b"0"]
    assert [os.pread(fd, 1, 0) for fd in many["fds"]] == [b"%d" % (n % 3) for n in range(count)]
    assert [os.pread(fd, 1, 0) for fd in after["fds"]] == [b"2"]
    for fd in [*before["fds"], *many["fds"], *after["fds"]]:
        os.close(fd)
    for file in files:
        file.close()


def test_a_message_larger_than_the_sockets_buffer_arrives(pair: tuple[Control, Control]) -> None:
    here, there = pair
    body = os.urandom(4 << 20)
    thread = threading.Thread(target=here.send, args=("large",), kwargs={"body": body})
    thread.start()

    (message,) = receive(there, 1)
    thread.join(LIMIT_S)

    assert message["body"] == body


def test_what_a_peer_said_before_it_went_is_still_heard(pair: tuple[Control, Control]) -> None:
    here, there = pair
    here.send("last words", number=1)
    here.close()

    messages = there.receive()

    assert [message["op"] for message in messages] == ["last words"]
    assert not there.open
    assert there.receive() == []


def test_half_a_message_is_none(raw: tuple[socket.socket, Control]) -> None:
    peer, control = raw
    peer.sendall(_LENGTH.pack(100, 0) + b"half of it")
    peer.close()

    assert control.receive() == []
    assert not control.open


def test_sending_to_a_peer_that_is_gone_says_so(pair: tuple[Control, Control]) -> None:
    here, there = pair
    there.close()

    assert here.send("hello") is False
    assert not here.open


def test_a_message_that_declares_too_much_is_refused_before_it_is_stored(
    raw: tuple[socket.socket, Control],
) -> None:
    peer, control = raw
    peer.sendall(_LENGTH.pack(MAXIMUM_MESSAGE + 1, 0) + b"x")

    with pytest.raises(TransportError, match="a control message of 16777217 bytes"):
        control.receive()

    assert not control.open


def test_closing_twice_is_harmless(pair: tuple[Control, Control]) -> None:
    here, there = pair

    here.close()
    here.close()

    assert there.receive() == []
    assert not there.open


def test_a_process_connects_by_path_and_is_known_to_be_ours(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sf") as folder:
        path = f"{folder}/control"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()

        control = Control.connect(path)
        accepted, _ = listener.accept()
        assert peer_is_me(accepted)
        control.send("hello", pid=1)
        other = Control(accepted)

        assert receive(other, 1)[0]["op"] == "hello"
        control.close()
        other.close()
        listener.close()
