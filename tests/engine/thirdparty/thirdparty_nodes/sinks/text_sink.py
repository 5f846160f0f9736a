"""A sink for another payload."""

from __future__ import annotations

from streamflow import In, Node, Packet, Settings, Text


class TextSink(Node[Settings], stateless=True):
    """Nothing: text ends here."""

    lines = In(Text)

    def on_lines(self, packet: Packet[Text]) -> None:
        pass
