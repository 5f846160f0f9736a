"""A kind whose module fails when it is imported."""

from streamflow import In, Node, Settings, Text


class Broken(Node[Settings]):
    """Never: its input has no handler."""

    lines = In(Text)
