"""The file of a linear recurrent network: a stack of layers in safetensors, read and written.

One `.safetensors` file (no pickle, nothing executable). `__metadata__["streamflow"]` is JSON:

    {"format": 1,
     "layers": [
       {"type": "dense", "name": "encoder", "activation": "relu"},
       {"type": "s5", "name": "s5.0", "norm": "batch", "norm_epsilon": 1e-5,
        "state_activation": "relu_re", "activation": "relu", "gate": "half1", "skip": true,
        "final_activation": "relu"},
       {"type": "dense", "name": "decoder", "activation": "none"}],
     "front_end": {"rate": 16000, "window": 512, "hop": 128, ...},
     "about": {"trained_on": "...", "licence": "..."}}

`layers` stand in the order in which a frame passes them; a layer's width is that of its tensors.
`front_end` says what makes the network's input and what its output means; it is kept as it is, for
the node that does it. `about` is text for people. The tensors are called `<layer>.<tensor>`,
float32 or float64 (float16 where precision does not matter):

dense:  y = activation(weight x + bias)

    weight          (outputs, inputs)
    bias            (outputs,)                 optional: 0

s5:     the state space layer of Smith, Warrington and Linderman (2023), "Simplified state space
        layers for sequence modeling", diagonal, conjugate pairs stored once, zero-order hold:

    A = exp(lambda dt)    B' = (A - 1) / lambda B          (B' = dt B where lambda = 0)
    v = norm(u)
    x = A x + B' v + input_bias                             complex, from 0
    h = state_activation(x)
    z = activation(2 Re(C h) + D v + output_bias)
    z = z sigmoid(gate.weight z + gate.bias)                gate "half1"
    y = final_activation(u + z)                             u only with "skip"

    lambda_re, lambda_im   (states,)            eigenvalues of continuous time, 1/s or 1/step
    dt                     (states,) or (1,)    step, in the unit that goes with lambda; above 0
    B_re, B_im             (states, width)
    C_re, C_im             (width, states)
    D                      (width,)
    input_bias_re, input_bias_im (states,)      optional: 0
    output_bias            (width,)             optional: 0
    gate.weight, gate.bias (width, width), (width,)         with gate "half1"
    norm.weight, norm.bias, norm.mean, norm.variance (width,)   with norm "batch":
                           v = (u - mean) / sqrt(variance + norm_epsilon) weight + bias
                           weight and bias are optional: 1 and 0

    `states` is the number of pairs. The batch norm is folded when the file is read, in float64:
    B', D, input_bias and output_bias take it up; nothing is lost. A file with a norm that was
    folded before says norm "none" and brings the two biases.

lru:    the linear recurrent unit of Orvieto et al. (2023), "Resurrecting recurrent neural networks
        for long sequences": as s5, but

    A = exp(-exp(nu_log) + i exp(theta_log))    B' = exp(gamma_log) B    z = ... Re(C h) ...

    nu_log, theta_log, gamma_log  (states,)     instead of lambda_re, lambda_im and dt

Activations: `none`, `relu`, `sigmoid`, `tanh`, `gelu_tanh` (z sigmoid(1.5957691 (z + 0.044715
z^3)), the approximation that JAX and S5 use). State activations: `none`, and `relu_re`: the whole
complex value passes where its real part is above 0, else 0 (this is what `jax.nn.relu` does to
complex numbers; it is *not* a ReLU on each part).

A matrix that is mostly zeros may be stored by rows (CSR) instead, as `<tensor>.values` (n,),
`<tensor>.columns` (n,) uint16, ascending in each row, and `<tensor>.ends` (rows,) int64, the end of
each row in the other two; the number of columns is in the metadata's `sparse`: {"<layer>.<tensor>":
columns}.

Refused: unknown fields, types and tensors, numbers that are not finite, |A| >= 1, shapes that do
not follow one another, files of more than 256 MiB. Types to come (diagonal real, matrix state) are
further `type` words with tensors of their own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..files.bounded import MODEL_LIMIT, TEXT_LIMIT

FORMAT = 1
LAYERS = 256  # of a model
WIDEST = 1 << 16  # inputs, outputs or states of a layer
SPARSE_BELOW = 0.5  # density from which on CSR is the smaller file

Activation = Literal["none", "relu", "sigmoid", "tanh", "gelu_tanh"]
StateActivation = Literal["none", "relu_re"]
Gate = Literal["none", "half1"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


class DenseLayer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
    tag_field="type", tag="dense",
):  # fmt: skip
    """What the metadata say of a dense layer."""

    name: Name
    activation: Activation = "none"


class RecurrentLayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the metadata say of a layer with a diagonal complex state."""

    name: Name
    norm: Literal["none", "batch"] = "none"
    norm_epsilon: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 1e-5
    state_activation: StateActivation = "relu_re"
    activation: Activation = "relu"
    gate: Gate = "half1"
    skip: bool = True
    final_activation: Activation = "relu"


class S5Layer(RecurrentLayer, frozen=True, kw_only=True, tag_field="type", tag="s5"):
    """A layer of type s5."""


class LruLayer(RecurrentLayer, frozen=True, kw_only=True, tag_field="type", tag="lru"):
    """A layer of type lru."""


LayerRecord = DenseLayer | S5Layer | LruLayer


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON in the file's metadata."""

    format: int
    layers: Annotated[tuple[LayerRecord, ...], msgspec.Meta(min_length=1, max_length=LAYERS)]
    front_end: dict[str, Any] = {}
    about: dict[str, str] = {}
    sparse: dict[str, Annotated[int, msgspec.Meta(ge=1, le=WIDEST)]] = {}
    fixed_point: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Dense:
    """y = activation(weight x + bias): weight (outputs, inputs), bias (outputs,), float64."""

    name: str
    weight: Real
    bias: Real
    activation: Activation

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A layer with a diagonal complex state, discretised, its norm folded, in double precision.

        x = a x + b u + input_bias
        z = activation(Re(c state_activation(x)) + d u + output_bias)
        z = z sigmoid(gate_weight z + gate_bias)            where there is a gate
        y = final_activation(u + z)                         u only with skip

    a, input_bias : (states,) complex128; b : (states, width); c : (width, states), with the 2 of
    conjugate pairs; d, output_bias : (width,) float64; gate_weight : (width, width) or None
    """

    name: str
    type: str
    a: Complex
    b: Complex
    c: Complex
    d: Real
    input_bias: Complex
    output_bias: Real
    gate_weight: Real | None
    gate_bias: Real | None
    state_activation: StateActivation
    activation: Activation
    skip: bool
    final_activation: Activation

    @property
    def inputs(self) -> int:
        return int(self.b.shape[1])

    @property
    def outputs(self) -> int:
        return int(self.c.shape[0])

    @property
    def states(self) -> int:
        """Complex states."""
        return int(self.a.shape[0])


Layer = Dense | Recurrent


@dataclass(frozen=True, eq=False)
class Model:
    """A checked network: `layers` ready to compute, and all that its file says besides."""

    path: str
    layers: tuple[Layer, ...]
    header: Header
    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    """Every tensor of the file as it is stored, sparse matrices made dense."""

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        return self.layers[-1].outputs

    @property
    def front_end(self) -> dict[str, Any]:
        return self.header.front_end


def read_model(path: str | os.PathLike[str]) -> Model:
    """The network in the file `path`.

    DeviceError, with the place in the file, for anything that is not as the module says.
    """
    where = os.fspath(path)
    tensors, text = _read_file(where)
    try:
        header = msgspec.json.decode(text, type=Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DeviceError(f"{where}: metadata 'streamflow': {error}") from error
    return _model(where, header, tensors)


def write_model(
    path: str | os.PathLike[str],
    layers: Sequence[LayerRecord | Mapping[str, Any]],
    tensors: Mapping[str, NDArray[Any]],
    *,
    front_end: Mapping[str, Any] | None = None,
    about: Mapping[str, str] | None = None,
    fixed_point: Mapping[str, Any] | None = None,
) -> Model:
    """Write a network, checked as `read_model` checks it; the network that was written.

    layers : records, or dicts such as {"type": "dense", "name": "encoder", "activation": "relu"}
    tensors : `<layer>.<tensor>` to array, as the module says; real floating arrays are stored in
        float32 unless they are float64 already. Matrices with less than half of their numbers
        other than 0 are stored by rows.
    """
    where = os.fspath(path)
    _check_finite(where, "front_end", front_end)
    sparse = {
        name: int(array.shape[1])
        for name, array in tensors.items()
        if array.ndim == 2 and array.size and np.count_nonzero(array) < SPARSE_BELOW * array.size
    }
    raw = {
        "format": FORMAT,
        "layers": [msgspec.to_builtins(layer) for layer in layers],
        "front_end": dict(front_end or {}),
        "about": dict(about or {}),
        "sparse": sparse,
        "fixed_point": dict(fixed_point or {}),
    }
    try:
        header = msgspec.json.decode(msgspec.json.encode(raw), type=Header)
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise DeviceError(f"{where}: cannot be written: {error}") from error
    kept = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    model = _model(where, header, kept)
    stored: dict[str, NDArray[Any]] = {}
    for name, array in kept.items():
        stored.update(_csr(name, array) if name in sparse else {name: array})
    save = _safetensors(where).numpy.save
    data = save(stored, {"streamflow": msgspec.json.encode(header).decode()})
    if len(data) > MODEL_LIMIT:
        raise DeviceError(f"{where}: {len(data)} bytes; expected at most {MODEL_LIMIT}")
    partial = Path(f"{where}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(where)
    except OSError as error:
        raise DeviceError(f"{where}: cannot be written: {error}") from error
    return model


# --- bytes ----------------------------------------------------------------------------------------


def _safetensors(where: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise DeviceError(
            f"{where}: reading it needs safetensors: pip install 'streamflow-neuro[audio]'"
        ) from error
    return safetensors


def _read_file(where: str) -> tuple[dict[str, NDArray[Any]], str]:
    """All tensors and the metadata's text, when the file is not larger than any model of ours."""
    safetensors = _safetensors(where)
    try:
        size = os.stat(where).st_size
        with open(where, "rb") as file:
            head = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise DeviceError(f"{where}: cannot be read: {error.strerror}") from error
    if size > MODEL_LIMIT:
        raise DeviceError(f"{where}: {size} bytes; expected a model of at most {MODEL_LIMIT}")
    if head > TEXT_LIMIT:
        raise DeviceError(f"{where}: not a safetensors file of ours: its header has {head} bytes")
    try:
        with safetensors.safe_open(where, framework="numpy") as file:
            text = (file.metadata() or {}).get("streamflow")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not iterable
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise DeviceError(f"{where}: not a readable safetensors file: {error}") from error
    if text is None:
        raise DeviceError(
            f"{where}: no metadata 'streamflow', which says what its layers are; write it with "
            "streamflow_nodes.linear_rnn.model_file.write_model"
        )
    return tensors, text


def _csr(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """A matrix by its rows."""
    rows, columns = np.nonzero(array)
    return {
        f"{name}.values": np.ascontiguousarray(array[rows, columns]),
        f"{name}.columns": columns.astype(np.uint16),
        f"{name}.ends": np.searchsorted(rows, np.arange(array.shape[0]), "right").astype(np.int64),
    }


def _dense_again(
    where: str, sparse: Mapping[str, int], tensors: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The tensors with sparse matrices made dense."""
    out, left = dict(tensors), MODEL_LIMIT
    for name, width in sparse.items():
        if name in out:
            continue  # written from dense arrays
        try:
            values, columns, ends = (out.pop(f"{name}.{x}") for x in ("values", "columns", "ends"))
        except KeyError as error:
            raise DeviceError(f"{where}: sparse {name}: tensor {error} is missing") from None
        count = values.size
        if (
            values.ndim != 1 or columns.shape != (count,) or ends.ndim != 1
            or columns.dtype != np.uint16 or ends.dtype != np.int64 or not 1 <= ends.size <= WIDEST
            or (count and int(columns.max()) >= width) or ends[0] < 0 or ends[-1] != count
            or (np.diff(ends) < 0).any()
        ):  # fmt: skip
            raise DeviceError(f"{where}: sparse {name}: not rows of a matrix {width} wide")
        left -= ends.size * width * values.itemsize
        if left < 0:
            raise DeviceError(f"{where}: sparse {name}: over {MODEL_LIMIT} bytes when dense")
        rows = np.repeat(np.arange(ends.size), np.diff(ends, prepend=0))
        places = rows * width + columns
        if (np.diff(places) <= 0).any():
            raise DeviceError(f"{where}: sparse {name}: columns of a row that do not ascend")
        array = np.zeros(ends.size * width, values.dtype)
        array[places] = values
        out[name] = array.reshape(ends.size, width)
    return out


# --- layers ---------------------------------------------------------------------------------------


class _Taken(NamedTuple):
    """The tensors of one layer, taken by name."""

    where: str
    layer: str
    tensors: Mapping[str, NDArray[Any]]
    left: set[str]

    def take(self, name: str, *shape: int | None) -> Real | None:
        """A tensor in float64, of the shape (None: any); None when it is not there."""
        full = f"{self.layer}.{name}"
        if full not in self.tensors:
            return None
        self.left.discard(full)
        array = self.tensors[full]
        if array.dtype.kind != "f":
            self.fail(name, f"dtype {array.dtype}; expected float16, float32 or float64")
        fits = array.ndim == len(shape) and all(
            want in (None, has) for want, has in zip(shape, array.shape, strict=True)
        )
        if not fits or not all(0 < side <= WIDEST for side in array.shape):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            self.fail(name, f"shape {array.shape}; expected ({wanted}), 1 to {WIDEST} each")
        if not np.isfinite(array).all():
            self.fail(name, "numbers that are not finite")
        return array.astype(np.float64)

    def need(self, name: str, *shape: int | None) -> Real:
        array = self.take(name, *shape)
        if array is None:
            raise DeviceError(f"{self.where}: layer {self.layer}: no tensor {self.layer}.{name}")
        return array

    def optional(self, name: str, size: int, default: float) -> Real:
        array = self.take(name, size)
        return np.full(size, default) if array is None else array

    def fail(self, name: str, what: str) -> None:
        raise DeviceError(f"{self.where}: tensor {self.layer}.{name}: {what}")


def _model(where: str, header: Header, tensors: Mapping[str, NDArray[Any]]) -> Model:
    if header.format != FORMAT:
        raise DeviceError(
            f"{where}: format {header.format}; this version reads format {FORMAT}: write it again"
        )
    names = [layer.name for layer in header.layers]
    if len(set(names)) != len(names):
        raise DeviceError(f"{where}: two layers have the same name: {names}")
    whole = _dense_again(where, header.sparse, dict(tensors))
    left = {name for name in whole if not name.startswith("fixed_point.")}
    layers: list[Layer] = []
    for record in header.layers:
        taken = _Taken(where, record.name, whole, left)
        layer = _dense(record, taken) if isinstance(record, DenseLayer) else _recurrent(
            record, taken
        )  # fmt: skip
        if layers and layers[-1].outputs != layer.inputs:
            raise DeviceError(
                f"{where}: layer {layer.name} takes {layer.inputs} numbers, and "
                f"{layers[-1].name} before it gives {layers[-1].outputs}"
            )
        layers.append(layer)
    if left:
        raise DeviceError(f"{where}: tensors of no layer: {sorted(left)[:5]}; layers: {names}")
    return Model(where, tuple(layers), header, whole)


def _check_finite(where: str, what: str, value: Any) -> None:
    """DeviceError for a number that JSON cannot say: it would become null."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, float) and not math.isfinite(item):
            raise DeviceError(f"{where}: {what}: a number that is not finite")


def _dense(record: DenseLayer, taken: _Taken) -> Dense:
    weight = taken.need("weight", None, None)
    bias = taken.optional("bias", weight.shape[0], 0.0)
    return Dense(record.name, weight, bias, record.activation)


def _recurrent(record: S5Layer | LruLayer, taken: _Taken) -> Recurrent:
    b_re = taken.need("B_re", None, None)
    states, width = b_re.shape
    b = b_re + 1j * taken.need("B_im", states, width)
    c = taken.need("C_re", width, states) + 1j * taken.need("C_im", width, states)
    d = taken.need("D", width)
    if isinstance(record, S5Layer):
        a, b = _zero_order_hold(taken, b)
        c = 2.0 * c
    else:
        rate = -np.exp(taken.need("nu_log", states))
        a = np.exp(rate + 1j * np.exp(taken.need("theta_log", states)))
        b = np.exp(taken.need("gamma_log", states))[:, None] * b
    if not (np.abs(a) < 1).all():
        at = int(np.abs(a).argmax())
        raise DeviceError(
            f"{taken.where}: layer {record.name}: |A| of state {at} is {abs(a[at]):.9g}; expected "
            "below 1 (a state that never fades): the real part of lambda must be below 0"
        )
    input_bias = (
        taken.optional("input_bias_re", states, 0.0)
        + 1j * taken.optional("input_bias_im", states, 0.0)
    )  # fmt: skip
    output_bias = taken.optional("output_bias", width, 0.0)
    if record.norm == "batch":
        scale, shift = _batch_norm(record, taken, width)
        input_bias = input_bias + b @ shift
        output_bias = output_bias + d * shift
        b, d = b * scale, d * scale
    weight = bias = None
    if record.gate == "half1":
        weight = taken.need("gate.weight", width, width)
        bias = taken.optional("gate.bias", width, 0.0)
    layer = Recurrent(
        record.name, "s5" if isinstance(record, S5Layer) else "lru", a, b, c, d, input_bias,
        output_bias, weight, bias, record.state_activation, record.activation, record.skip,
        record.final_activation,
    )  # fmt: skip
    numbers = (a, b, c, d, input_bias, output_bias)
    if not all(np.isfinite(cast(Any, each)).all() for each in numbers):
        raise DeviceError(
            f"{taken.where}: layer {record.name}: not finite after discretisation and folding"
        )
    return layer


def _zero_order_hold(taken: _Taken, b: Complex) -> tuple[Complex, Complex]:
    states = b.shape[0]
    rate = taken.need("lambda_re", states) + 1j * taken.need("lambda_im", states)
    dt = taken.need("dt", None)
    if dt.size not in (1, states) or not (dt > 0).all():
        taken.fail("dt", f"shape {dt.shape}, least {dt.min()}; expected 1 or {states}, above 0")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by |A| < 1
        a = np.exp(rate * dt)
        # expm1 keeps the digits of slow states, where A is nearly 1
        held = np.where(rate == 0, dt, np.expm1(rate * dt) / np.where(rate == 0, 1, rate))
        return a, held[:, None] * b


def _batch_norm(record: RecurrentLayer, taken: _Taken, width: int) -> tuple[Real, Real]:
    """The norm as scale u + shift."""
    mean, variance = taken.need("norm.mean", width), taken.need("norm.variance", width)
    weight = taken.optional("norm.weight", width, 1.0)
    bias = taken.optional("norm.bias", width, 0.0)
    if not (variance + record.norm_epsilon > 0).all():
        taken.fail("norm.variance", "a variance of 0 or below; expected above 0")
    scale = weight / np.sqrt(variance + record.norm_epsilon)
    return scale, bias - mean * scale
