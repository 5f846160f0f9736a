"""Tables of any structured dtype as plain columns, for files that know no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError

Rows = NDArray[Any]
Path = tuple[Any, ...]


def leaves(dtype: np.dtype[Any], name: str = "", path: Path = ()) -> Iterator[tuple[str, Path]]:
    """Every plain column in `dtype`: its name, and the indices that take it out of the rows."""
    if dtype.names is not None:
        for field in dtype.names:
            yield from leaves(dtype[field], f"{name}.{field}" if name else field, (*path, field))
    elif dtype.subdtype is not None:
        for at in np.ndindex(dtype.shape):
            label = "_".join(map(str, (name, *at)))
            yield from leaves(dtype.base, label, (*path, (slice(None), *at)))
    else:
        yield name, path


def column(rows: Rows, path: Path) -> Rows:
    """The plain column of `rows` that `leaves` named."""
    for step in path:
        rows = rows[step]
    return rows


def distinct(columns: list[str], node: str) -> list[str]:
    """The setting `columns`, each named once."""
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise NodeError(node, f"settings: columns names {repeated} twice; once is enough")
    return list(columns)


def file_columns(
    dtype: np.dtype[Any], header: list[str], is_chosen: bool, node: str, kind: str
) -> dict[str, Path]:
    """Where in rows of `dtype` the columns of a file lie, in the file's order.

    `header` is the columns that the file has, or none yet; where a setting chose them
    (`is_chosen`), others in the rows are left out. NodeError when the rows lack the file's.
    """
    if dtype.names is None:
        raise NodeError(
            node,
            f"rows without named fields ({dtype}); expected a structured table",
            kind=kind,
        )
    known = dict(leaves(dtype))
    wanted = header or list(known)
    if missing := [name for name in wanted if name not in known]:
        raise NodeError(
            node,
            f"rows without the columns {missing} that the file has; they have {list(known)}; "
            "correct the setting 'columns' or connect a table that has them",
            kind=kind,
        )
    if not is_chosen and (new := [name for name in known if name not in wanted]):
        raise NodeError(
            node,
            f"the columns {new} appeared after the file was begun with {wanted}; a file has "
            "one set of columns: name those you want in the setting 'columns'",
            kind=kind,
        )
    return {name: known[name] for name in wanted}


def text_of(cells: Rows) -> tuple[list[str], int]:
    r"""Cells of bytes as text, and how many are not UTF-8: their wrong bytes become `\xNN`."""
    out, wrong = [], 0
    for cell in cells.tolist():
        try:
            out.append(cell.decode())
        except UnicodeDecodeError:
            wrong += 1
            out.append(cell.decode(errors="backslashreplace"))
    return out, wrong
