"""A kind whose module needs a package that is not installed."""

import exotic_camera_sdk  # noqa: F401  # not there: what is tested

from streamflow import Node, Settings


class NeedsExtra(Node[Settings]):
    """Never."""
