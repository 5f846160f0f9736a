"""A node's mistakes show when it is imported or made, and its emissions are checked."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streamflow.errors import NodeError
from streamflow.node import (
    Emission,
    FilePath,
    Fraction,
    In,
    Microseconds,
    Node,
    Out,
    Positive,
    Seconds,
    Settings,
    check_emission,
    kind_of,
)
from streamflow.packet import SPIKE, Packet, Spikes, Table, Text


class ScalerSettings(Settings, frozen=True, kw_only=True):
    gain: float
    window: Seconds = 0.5
    step: Microseconds = 100
    share: Fraction = 1.0
    units: Positive = 1
    path: FilePath = "file"


class Scaler(Node[ScalerSettings], stateless=True):
    """Passes spikes on."""

    spikes = In(Spikes)
    scaled = Out(Spikes)
    faults = ("odd", "late")

    def on_spikes(self, packet: Packet[Spikes]) -> Any:
        yield self.scaled(packet.data, packet.start, packet.stop)


def some_spikes() -> Spikes:
    return Spikes(np.zeros(2, SPIKE), 4)


# --- ports and handlers, at import --------------------------------------------------------------


def test_ports_are_known_by_the_names_of_their_attributes() -> None:
    assert list(Scaler.inputs) == ["spikes"]
    assert list(Scaler.outputs) == ["scaled"]
    assert Scaler.inputs["spikes"].payload is Spikes
    assert Scaler.settings_type is ScalerSettings


def test_ports_are_in_the_order_they_are_written_in() -> None:
    class Join(Node[Settings]):
        zebra = In(Spikes)
        apple = In(Spikes)

        def on_zebra(self, packet: Packet[Spikes]) -> None: ...
        def on_apple(self, packet: Packet[Spikes]) -> None: ...

    assert list(Join.inputs) == ["zebra", "apple"]


def test_an_input_without_a_handler_fails_at_import() -> None:
    with pytest.raises(TypeError, match=r"Deaf: input 'spikes' needs a method on_spikes\(self"):

        class Deaf(Node[Settings]):
            spikes = In(Spikes)


def test_a_handler_without_an_input_fails_at_import() -> None:
    with pytest.raises(TypeError, match="on_spike handles no input; declared inputs: spikes"):

        class Misspelt(Node[Settings]):
            spikes = In(Spikes)

            def on_spikes(self, packet: Packet[Spikes]) -> None: ...
            def on_spike(self, packet: Packet[Spikes]) -> None: ...


def test_a_handler_annotated_with_another_payload_fails_at_import() -> None:
    with pytest.raises(TypeError, match="carries Spikes, but on_spikes is annotated with Table"):

        class Confused(Node[Settings]):
            spikes = In(Spikes)

            def on_spikes(self, packet: Packet[Table]) -> None: ...


def test_an_annotation_that_is_no_text_is_checked_too() -> None:
    def on_spikes(self: Any, packet: Any) -> None: ...

    on_spikes.__annotations__["packet"] = Packet[Table]

    with pytest.raises(TypeError, match="annotated with Table"):
        type("Confused", (Node,), {"spikes": In(Spikes), "on_spikes": on_spikes})


def test_handlers_may_leave_the_annotation_out_or_say_any() -> None:
    class Easy(Node[Settings]):
        spikes = In(Spikes)
        rows = In(Table)

        def on_spikes(self, packet: Packet[Any]) -> None: ...
        def on_rows(self, packet): ...  # type: ignore[no-untyped-def]  # as users write

    assert list(Easy.inputs) == ["spikes", "rows"]


def test_a_handler_with_other_arguments_fails_at_import() -> None:
    with pytest.raises(TypeError, match=r"on_spikes takes \(self, packet\)"):

        class Greedy(Node[Settings]):
            spikes = In(Spikes)

            def on_spikes(self, packet: Packet[Spikes], more: int) -> None: ...


def test_a_source_has_no_inputs() -> None:
    with pytest.raises(TypeError, match=r"a source has produce\(\) and no inputs"):

        class Both(Node[Settings]):
            spikes = In(Spikes)

            def on_spikes(self, packet: Packet[Spikes]) -> None: ...
            def produce(self) -> Any:
                yield


@pytest.mark.parametrize("verb", ["snapshot", "restore"])
def test_snapshot_and_restore_belong_together(verb: str) -> None:
    with pytest.raises(TypeError, match="snapshot and restore belong together"):
        type("Half", (Node,), {verb: lambda self, *_: {}})


def test_a_stateless_node_has_nothing_to_snapshot() -> None:
    with pytest.raises(TypeError, match="a stateless node has nothing to snapshot"):

        class Both(Node[Settings], stateless=True):
            def snapshot(self) -> dict[str, Any]:
                return {}

            def restore(self, state: dict[str, Any]) -> None: ...


def test_what_a_node_is_follows_from_what_it_has() -> None:
    class Ramp(Node[Settings]):
        spikes = Out(Spikes)

        def produce(self) -> Any:
            yield from ()

    class Sink(Node[Settings]):
        spikes = In(Spikes)

        def on_spikes(self, packet: Packet[Spikes]) -> None: ...
        def snapshot(self) -> dict[str, Any]:
            return {}

        def restore(self, state: dict[str, Any]) -> None: ...

    assert (Ramp.is_source(), Ramp.is_sink(), Ramp.is_snapshotting()) == (True, False, False)
    assert (Sink.is_source(), Sink.is_sink(), Sink.is_snapshotting()) == (False, True, True)
    assert (Scaler.is_source(), Scaler.is_sink(), Scaler.stateless) == (False, False, True)


@pytest.mark.parametrize(
    ("name", "kind"), [("LifLayer", "lif_layer"), ("Plot", "plot"), ("CsvFile", "csv_file")]
)
def test_a_kind_is_the_classs_name_in_snake_case(name: str, kind: str) -> None:
    assert kind_of(type(name, (Node,), {})) == kind


# --- settings -----------------------------------------------------------------------------------


def test_settings_are_checked_and_given_their_defaults() -> None:
    node = Scaler({"gain": 2})

    assert node.settings == ScalerSettings(gain=2.0)
    assert isinstance(node.settings.gain, float)
    assert node.name == "scaler"


def test_settings_that_are_a_struct_already_are_checked_again() -> None:
    unchecked = ScalerSettings(gain=1.0, window=-1.0)

    with pytest.raises(NodeError, match=r"settings: .*`\$\.window`"):
        Scaler(unchecked)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "missing required field `gain`"),
        (None, "missing required field `gain`"),
        ({"gain": "two"}, r"Expected `float`, got `str` - at `\$\.gain`"),
        ({"gain": 1, "gian": 1}, "unknown field `gian`"),
        ({"gain": 1, "window": 0}, r"`float` > 0(\.0)? - at `\$\.window`"),
        ({"gain": 1, "step": 1.5}, r"Expected `int`, got `float` - at `\$\.step`"),
        ({"gain": 1, "step": 0}, r"`\$\.step`"),
        ({"gain": 1, "share": 1.01}, r"`\$\.share`"),
        ({"gain": 1, "units": 0}, r"`\$\.units`"),
        ({"gain": 1, "path": ""}, r"`\$\.path`"),
    ],
)
def test_wrong_settings_say_which_node_which_setting_and_what_was_expected(
    settings: Any, what: str
) -> None:
    with pytest.raises(NodeError, match=what) as raised:
        Scaler(settings, name="second")

    assert str(raised.value).startswith("node 'second' (scaler): settings: ")
    assert isinstance(raised.value.__cause__, msgspec.ValidationError)


def test_settings_cannot_be_changed() -> None:
    node = Scaler({"gain": 2})

    with pytest.raises(AttributeError):
        node.settings.gain = 3  # type: ignore[misc]  # what is tested


# --- emissions ----------------------------------------------------------------------------------


def test_calling_an_output_makes_a_packet_for_its_port() -> None:
    data = some_spikes()

    emission = Scaler({"gain": 1}).scaled(data, np.int64(3), np.int64(9), captured=5)

    assert emission.port == "scaled"
    assert (emission.packet.start, emission.packet.stop, emission.packet.captured) == (3, 9, 5)
    assert type(emission.packet.start) is int
    assert emission.packet.data is data


def test_two_nodes_of_a_class_do_not_share_their_outputs() -> None:
    first, second = Scaler({"gain": 1}), Scaler({"gain": 1})

    first.scaled.lender = lambda shape, dtype: np.full(shape, 7, dtype)

    assert first.scaled.loan(3, np.int32).tolist() == [7, 7, 7]
    assert second.scaled.lender is None
    assert second.scaled.loan((2, 3), np.float32).shape == (2, 3)


def test_faults_are_counted_by_their_names() -> None:
    node = Scaler({"gain": 1})
    node.count_fault("late")
    node.count_fault("late", 4)

    assert node.fault_counts == {"odd": 0, "late": 5}
    with pytest.raises(KeyError):
        node.count_fault("undeclared")


def emission(port: str = "scaled", data: Any = None, start: int = 0, stop: int = 1) -> Emission:
    return Emission(port, Packet(start, stop, some_spikes() if data is None else data))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (emission(port="scale"), "emitted on 'scale', not one of its outputs"),
        (emission(data=Text.of("x")), "emitted Text on 'scaled', which declares Spikes"),
        (emission(start=5, stop=4), r"a packet that stops \(4\) before 5"),
        (emission(start=-1), "starts at -1, before stream time 0 which it had let pass"),
    ],
    ids=["undeclared port", "wrong payload", "stops before it starts", "too late"],
)
def test_an_emission_that_breaks_the_contract_says_which_node_and_how(
    wrong: Emission, what: str
) -> None:
    with pytest.raises(NodeError, match=what) as raised:
        check_emission(Scaler({"gain": 1}, name="second"), wrong, watermark=0)

    assert str(raised.value).startswith("node 'second' (scaler): ")


def test_a_packet_that_starts_where_stream_time_is_passes() -> None:
    check_emission(Scaler({"gain": 1}), emission(start=10, stop=10), watermark=10)
