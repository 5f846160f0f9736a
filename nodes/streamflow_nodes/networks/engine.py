"""Our engine: steps a compiled network with `kernels/spiking_network.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from ..kernels import spiking_network as k
from .compiler import Point, Precision, Program, aligned, compile_network
from .rules import Rules

_PLACE = np.dtype(np.int64)
_VIEWS = 33  # views of the first records that are ready: to make one takes as long as a few rows

_Int = NDArray[np.int64]


class State:
    """The state of one instance of a network, and its steps."""

    def __init__(self, program: Program, *, records: int = 0) -> None:
        """`records` is how many rows of records are kept room for, beyond what one step needs."""
        self.program = program
        self.state = aligned(program.state)
        self.marks = aligned(program.marks)
        room = sum(point.unit.size for point in program.watched())
        self.records = np.empty((room + max(records, room), 4) if room else (0, 4), np.float64)
        self.type = program.state.dtype
        self.no_values, self.no_ends = np.empty(0, self.type), np.empty(0, _PLACE)
        # addresses: the arrays must stay the ones they are
        self.arrays = np.zeros(k.ARRAYS_WIDTH, np.int64)
        self.arrays[: 2 * k.ARRAYS] = [
            number
            for array in (
                program.plan, program.weights, program.coefficients, self.state, self.marks,
                self.records,
            )
            for number in (array.ctypes.data, array.size)
        ]  # fmt: skip
        self.address = int(self.arrays.ctypes.data)
        self.views = [self.records[:count] for count in range(_VIEWS)]
        self._run_steps = _compiled(self.type)

    def __reduce__(self) -> Any:
        """TypeError: a copy would write into the state that it was copied from."""
        raise TypeError("a State is not copied; make another of its program, and use snapshot()")

    def rest(self) -> None:
        """Back to how it was before the first step."""
        p = self.program
        self.marks[k.STEP] = 0
        self.marks[p.lasting_marks :] = p.marks[p.lasting_marks :]
        self.state[p.lasting_state :] = p.state[p.lasting_state :]

    def snapshot(self) -> dict[str, Any]:
        """The state as a flat dict of arrays."""
        return {"state": self.state.copy(), "marks": self.marks.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""
        self.state[:] = state["state"]
        self.marks[:] = state["marks"]

    @property
    def steps(self) -> int:
        """How many steps were made since rest."""
        return int(self.marks[k.STEP])

    def run(
        self, cells: _Int, ends: _Int, values: NDArray[Any] | None = None, begin: int = 0
    ) -> tuple[int, NDArray[np.float64], int]:
        """Steps from `begin` on: steps of `ends` done, the records, cells that are no inputs.

        `cells` (n,) int64, places of the input that are not 0, step after step; `ends` (steps,)
        int64, where in `cells` each step ends; `values` (n,) of the state's type, what they give,
        or None: 1 each. All contiguous; TypeError and ValueError for others.
        Records are (rows, 4) float64: step, number of the point, place in NIR's order, value; a
        view that the next call writes over. When fewer steps are done than there are, call again
        with that as `begin`.
        """
        given = self.no_values if values is None else values
        if (
            cells.dtype is not _PLACE
            or ends.dtype is not _PLACE
            or given.dtype is not self.type
            or not cells.ndim == ends.ndim == given.ndim == 1
        ):
            self._check(cells, given, ends)
        if begin < 0:
            raise ValueError(f"begin {begin}: expected 0 or more")
        written = self._run_steps(self.address, cells, given, ends, begin)
        if 0 <= written < _VIEWS:
            return len(ends), self.views[written], 0
        return self._told(cells, given, ends)

    def step(
        self, cells: _Int, values: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float64], int]:
        """One step: the records, and how many cells are no inputs; all as `run` has them.

        The quickest way from Python to step a small network, which takes less than such a call.
        """
        given = self.no_values if values is None else values
        if (
            cells.dtype is not _PLACE
            or cells.ndim != 1
            or (values is not None and (given.dtype is not self.type or given.ndim != 1))
        ):
            self._check(cells, given, self.no_ends)
        written = self._run_steps(self.address, cells, given, self.no_ends, k.ONE_STEP)
        if 0 <= written < _VIEWS:
            return self.views[written], 0
        _, records, outside = self._told(cells, given, self.no_ends)
        return records, outside

    def _check(self, cells: _Int, given: NDArray[Any], ends: _Int) -> None:
        """TypeError and ValueError, unless they are alike in substance: NumPy has several objects
        for one type.
        """  # fmt: skip
        if not (cells.dtype == ends.dtype == _PLACE and given.dtype == self.type):
            raise TypeError(
                f"cells {cells.dtype}, ends {ends.dtype}, values {given.dtype}; expected {_PLACE}, "
                f"{_PLACE}, {self.type}"
            )
        if not cells.ndim == ends.ndim == given.ndim == 1:
            raise _wrong(cells, given, ends)

    def _told(
        self, cells: _Int, given: NDArray[Any], ends: _Int
    ) -> tuple[int, NDArray[np.float64], int]:
        """What the last call of the kernel tells; ValueError where it refused the arrays."""
        done, written, outside = self.arrays[k.DONE : k.ARRAYS_WIDTH].tolist()
        if done < 0:
            raise _wrong(cells, given, ends)
        return done, self.records[:written], outside

    def values(self, name: str) -> NDArray[Any]:
        """What a unit gave in the last step, in its shape; fresh."""
        point = self.program.points[self.program.given.get(name, name)]
        row, size = point.row, point.unit.size
        slot = (self.steps - 1) % row[k.SLOTS]
        count, graded = self.marks[row[k.COUNTS] + 2 * slot :][:2]
        places = self.marks[row[k.LIST] + slot * size :][:count]
        out = np.zeros(size, self.state.dtype)
        if count and self.steps:
            given = self.state[row[k.VALUES] + slot * size :][:count] if graded else 1
            out[places if point.order is None else point.order[places]] = given
        shape = self.program.wiring.units[name].output_shape
        return out.reshape(shape)

    def potential(self, name: str) -> NDArray[Any]:
        """The potential of a unit's neurons, in its shape; fresh. KeyError when it has none."""
        point = self.program.points[name]
        if not point.unit.is_neuron:
            raise KeyError(name)
        return self._ordered(point, k.POTENTIAL)

    def totals(self, name: str) -> NDArray[Any]:
        """The sum over all steps of what a unit gave, in its shape; fresh."""
        point = self.program.points[self.program.given.get(name, name)]
        if point.row[k.TOTALS] < 0:
            raise KeyError(name)
        return self._ordered(point, k.TOTALS)

    def entries(self, name: str) -> int:
        """How many spikes (or values other than 0) a unit gave in all steps."""
        point = self.program.points[self.program.given.get(name, name)]
        return int(self.marks[point.row[k.SPIKES]])

    def _ordered(self, point: Point, column: int) -> NDArray[Any]:
        at = int(point.row[column])
        out = self.state[at : at + point.unit.size].copy()
        if point.order is not None:
            out[point.order] = self.state[at : at + point.unit.size]
        return out.reshape(point.unit.output_shape)


def _wrong(cells: _Int, given: NDArray[Any], ends: _Int) -> ValueError:
    return ValueError(
        f"cells {cells.shape}, ends {ends.shape} and values {given.shape}: expected contiguous "
        "arrays of one dimension, values as many as cells, and ends that ascend from 0 to as many"
    )


def _compiled(dtype: Any) -> Any:
    """The kernel for states of that type, called as it is.

    Numba's dispatcher looks at the type of every argument in every call, which takes as long as a
    small network; `State` looks at what may differ.
    """
    places, values = types.Array(types.int64, 1, "C"), types.Array(from_dtype(dtype), 1, "C")
    return k.run_steps.compile((types.int64, places, values, places, types.int64))


def warm_up(precision: Precision = "single") -> None:
    """Compile (or load) the kernel for that precision, as networks call it."""
    import nir

    from .wiring import wire

    one = np.ones(1)
    graph = nir.NIRGraph.from_list(
        nir.Input(np.array([1])), nir.Affine(one[:, None], one), nir.IF(one, one)
    )
    state = State(compile_network(wire(graph), Rules(), watch=["if"], precision=precision))
    state.run(np.zeros(1, np.int64), np.ones(1, np.int64))
