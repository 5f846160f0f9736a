"""When each pixel of a sensor fired last: the state that filters of events keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEVER = -(1 << 62)  # a pixel that has not fired; far from both ends, so differences do not overflow


def quiet_pixels(width: int, height: int, inside: int = NEVER) -> NDArray[np.int64]:
    """The state of a sensor of which no pixel has fired: ((height + 2) * (width + 2),) int64.

    The last time (us) of each pixel, row by row, with a border of one pixel that never fires, so
    that every pixel has eight neighbours. `inside` is what the sensor's own pixels hold.
    """
    last = np.full((height + 2, width + 2), NEVER, np.int64)
    last[1:-1, 1:-1] = inside
    return last.reshape(-1)
