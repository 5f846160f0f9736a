"""`streamflow model` for spiking networks in NIR files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

import click
import numpy as np
from numpy.typing import NDArray

from streamflow.text import columns

from ..files.records import replace_file
from .backend import BackendName, make_backend
from .measures import Figures, figures
from .nir_file import NetworkError
from .rules import Integrator, RecurrentStart, Reset, Rules
from .runs import compare_outputs, run_network
from .wiring import Wiring, read_network

INPUT_LIMIT = 1 << 31  # bytes of an input

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Failure(click.ClickException):
    """A network, or an input, that cannot be used."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"streamflow: {self.message}", err=True, file=file)


class _Wrong(_Failure):
    exit_code = 2


_file = click.argument("file", metavar="FILE.nir")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def _rules(function: _Function) -> _Function:
    """Options for what NIR leaves open."""
    for option in (
        click.option("--dt", type=float, help="Time step (s), where there are time constants."),
        click.option(
            "--integrator", type=click.Choice(get_args(Integrator)), default="euler",
            show_default=True, help="How the membrane is integrated over a step.",
        ),
        click.option(
            "--reset", type=click.Choice(get_args(Reset)), default="value", show_default=True,
            help="After a spike: to v_reset, or down by the threshold.",
        ),
        click.option(
            "--recurrent-delay", type=int, default=1, show_default=True,
            help="Steps along an edge that closes a cycle.",
        ),
        click.option(
            "--synaptic-delay", type=int, default=0, show_default=True,
            help="Steps before a connection; Lava's is 1.",
        ),
        click.option(
            "--recurrent-start", type=click.Choice(get_args(RecurrentStart)), default="bias",
            show_default=True, help="What recurrent connections give before the first step.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def _given(options: dict[str, Any]) -> Rules:
    try:
        return Rules(**options)
    except NetworkError as error:
        raise _Wrong(str(error)) from error


def _read(file: str, failure: type[_Failure] = _Failure) -> Wiring:
    try:
        return read_network(file)
    except NetworkError as error:
        raise failure(str(error)) from error


def _frames(path: str, wiring: Wiring) -> NDArray[Any]:
    """The input in a .npy file as (steps, inputs...) numbers, not read before its size is known."""
    try:
        with open(path, "rb") as stream:
            if stream.read(6) != b"\x93NUMPY":
                raise ValueError("it is not a .npy file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise _Failure(
            f"{path}: cannot be read as an array ({error}); write it with numpy.save"
        ) from error
    unit = wiring.only_input()
    if array.dtype.kind not in "biuf" or array.ndim < 1 or array.nbytes > INPUT_LIMIT:
        raise _Failure(f"{path}: {array.dtype} of shape {array.shape}; expected numbers")
    shape = array.shape[1:] or (1,)
    if shape not in (unit.output_shape, (unit.size,)):
        raise _Failure(
            f"{path} has shape {array.shape}; expected (steps, "
            f"{', '.join(map(str, unit.output_shape))}) or (steps, {unit.size})"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _Failure(f"{path} holds numbers that are not finite")
    return np.asarray(array.reshape(len(array), unit.size))


# --- show and check -------------------------------------------------------------------------------


@click.command()
@_file
@_json
@click.option(
    "--density", type=click.FloatRange(0, 1), default=0.05, show_default=True,
    help="Share of a layer's places that are active in a step, for the estimate of operations.",
)  # fmt: skip
def show(file: str, as_json: bool, density: float) -> int:
    """Show the layers of FILE.nir: parameters, neurons, synapses, operations per step.

    Operations are an estimate: each active place of a layer adds its weights to the next (synaptic
    operations), and every neuron is looked at once.
    """
    wiring = _read(file)
    rows = figures(wiring, density)
    if as_json:
        click.echo(json.dumps(_show_json(file, wiring, rows, density), indent=2))
        return 0
    table = [("layer", "kind", "shape", "parameters", "neurons", "synapses", "operations/step")]
    table += [
        (
            row.name, row.kind, "x".join(map(str, row.shape)), f"{row.parameters:,}",
            f"{row.neurons:,}", f"{row.synapses:,}", f"{row.operations:,.0f}",
        )
        for row in rows
    ]  # fmt: skip
    table.append(
        (
            "total", "", "", f"{sum(r.parameters for r in rows):,}",
            f"{sum(r.neurons for r in rows):,}", f"{sum(r.synapses for r in rows):,}",
            f"{sum(r.operations for r in rows):,.0f}",
        )
    )  # fmt: skip
    click.echo("\n".join(columns(table)))
    click.echo(f"\noperations: an estimate, with {density:.1%} of each layer active in a step")
    for sentence in (*wiring.repairs, *_remarks(wiring)):
        click.echo(f"note: {sentence}")
    return 0


def _show_json(file: str, wiring: Wiring, rows: list[Figures], density: float) -> dict[str, Any]:
    return {
        "file": file,
        "layers": [row._asdict() for row in rows],
        "totals": {
            what: sum(getattr(row, what) for row in rows)
            for what in ("parameters", "neurons", "synapses", "operations")
        },
        "density": density,
        "needs_dt": bool(wiring.timed),
        "repairs": list(wiring.repairs),
        "remarks": list(_remarks(wiring)),
    }


def _remarks(wiring: Wiring) -> Iterator[str]:
    """What NIR leaves open in this network, and what is odd about it."""
    if wiring.timed:
        names = ", ".join(wiring.timed)
        yield f"The file says no time step: give dt, for {names}."
    if wiring.spiking:
        yield "The file does not say whether a spike resets to v_reset or subtracts the threshold."
    recurrent = [
        f"{link.source} to {name}"
        for name, unit in wiring.units.items()
        for link in unit.inputs
        if link.recurrent
    ]
    if recurrent:
        yield f"Recurrent edges take recurrent_delay steps: {', '.join(recurrent)}."
    for name, unit in wiring.units.items():
        if unit.kind != "Output" and not wiring.consumers(name):
            yield f"What {name!r} gives goes nowhere."
    for name, unit in wiring.units.items():
        if (leak := unit.parameters.get("v_leak")) is not None and (
            unit.kind in ("LIF", "CubaLIF") and (leak > unit.parameters["v_threshold"]).any()
        ):
            yield f"Neurons of {name!r} leak towards more than their threshold: they never rest."


@click.command()
@_file
@_rules
@_json
def check(file: str, as_json: bool, **options: Any) -> int:
    """Check that FILE.nir can be run, and say what was repaired and what it leaves open.

    Exit code 0: it runs under these rules. 2: it is wrong, or the rules do not fit it. Without --dt
    a file with time constants is checked with its shortest one.
    """
    from .compiler import compile_network

    wiring, rules = _read(file, _Wrong), _given(options)
    try:
        if rules.dt is None and wiring.timed:
            taus = [
                wiring.units[name].parameters[what].min()
                for name in wiring.timed
                for what in ("tau", "tau_mem", "tau_syn")
                if what in wiring.units[name].parameters
            ]
            options["dt"] = float(min(taus)) if taus else None
            rules = Rules(**options)
        if rules.dt is not None or not wiring.timed:
            compile_network(wiring, rules)
    except NetworkError as error:
        raise _Wrong(f"{file}: {error}") from error
    found = {
        "valid": True,
        "file": file,
        "units": len(wiring.units),
        "repairs": list(wiring.repairs),
        "remarks": list(_remarks(wiring)),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    click.echo(f"{file}: {len(wiring.units)} units, runs")
    for sentence in wiring.repairs:
        click.echo(f"repaired: {sentence}")
    for sentence in _remarks(wiring):
        click.echo(f"note: {sentence}")
    return 0


@click.command()
@_file
@click.argument("output", metavar="OUT.nir")
def convert(file: str, output: str) -> int:
    """Write FILE.nir repaired and flattened, so that NIR's own reader takes it.

    Nested graphs are taken apart (names joined with dots), shapes are written out, every parameter
    has its layer's shape. Nothing is rounded.
    """
    import nir

    wiring = _read(file)
    memory = io.BytesIO()
    try:
        nir.write(memory, wiring.to_nir())
    except (NetworkError, ValueError, AssertionError) as error:
        raise _Failure(f"{file}: cannot be written as one flat graph: {error}") from error
    replace_file(output, memory.getvalue(), "streamflow model convert")
    click.echo(f"{output}: {len(wiring.units)} units")
    for sentence in wiring.repairs:
        click.echo(f"repaired: {sentence}")
    return 0


# --- run and compare ------------------------------------------------------------------------------


@click.command()
@_file
@click.option("--input", "source", required=True, metavar="IN.npy", help="(steps, inputs...)")
@click.option("--output", "target", required=True, metavar="OUT.npz", help="Where to.")
@_rules
@click.option(
    "--backend", type=click.Choice(get_args(BackendName)), default="numba", show_default=True,
    help="What runs the network.",
)  # fmt: skip
@click.option("--membranes", is_flag=True, help="Also v after each step, as NAME.membrane.")
def run(file: str, source: str, target: str, backend: str, membranes: bool, **options: Any) -> int:
    """Run FILE.nir over an array of steps, one step at a time, as it runs in a stream.

    OUT.npz holds, each (steps, shape...) float32: the spikes of every spiking layer under its name,
    what every Output gives, and v of LI, CubaLI and I layers; and `rules`, JSON of the rules and
    the back end.
    """
    wiring, rules = _read(file), _given(options)
    frames = _frames(source, wiring)
    try:
        engine = make_backend(backend)
        given, said = run_network(engine, wiring, rules, frames, membranes=membranes)
    except NetworkError as error:
        raise _Failure(f"{file}: {error}") from error
    name = "rules" if "rules" not in given else "streamflow.rules"
    arrays = {**given, name: np.array(json.dumps(said))}
    replace_file(target, _npz(arrays), "streamflow model run")
    spikes = {name: int(np.count_nonzero(given[name])) for name in wiring.spiking}
    click.echo(f"{target}: {len(frames)} steps, spikes by layer: {spikes}")
    return 0


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """An .npz; numpy.savez cannot write an array that is called `file`."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return memory.getvalue()


@click.command()
@_file
@click.option("--input", "source", required=True, metavar="IN.npy", help="(steps, inputs...)")
@_rules
@click.option(
    "--backends", default="numba,norse", show_default=True, metavar="A,B", help="Which two."
)
@_json
def compare(file: str, source: str, backends: str, as_json: bool, **options: Any) -> int:
    """Run FILE.nir in two back ends over the same input, and compare every layer.

    Tells how many numbers differ, in which step first, and the cosine similarity of the two. Exit
    code 0 when no spike differs, 1 otherwise.
    """
    names = backends.split(",")
    if len(names) != 2 or not set(names) <= set(get_args(BackendName)):
        known = ", ".join(get_args(BackendName))
        raise _Wrong(f"--backends {backends!r}; expected two of {known}, with a comma")
    wiring, rules = _read(file), _given(options)
    frames = _frames(source, wiring)
    results = []
    for name in names:
        try:
            results.append(run_network(make_backend(name), wiring, rules, frames)[0])
        except NetworkError as error:
            raise _Failure(f"{file}: {name}: {error}") from error
    layers = compare_outputs(*results)
    differ = sum(layer.differ for layer in layers if layer.name in wiring.spiking)
    if as_json:
        found = {"backends": names, "rules": rules.as_dict(), "spikes_differ": differ}
        click.echo(json.dumps({**found, "layers": [one._asdict() for one in layers]}, indent=2))
    else:
        table = [("layer", "of", "differ", "first step", "cosine similarity")]
        table += [
            (
                layer.name, f"{layer.of:,}", f"{layer.differ:,}",
                "" if layer.first is None else str(layer.first), f"{layer.cosine:.6f}",
            )
            for layer in layers
        ]  # fmt: skip
        click.echo("\n".join(columns(table)))
    return 1 if differ else 0


commands = {"show": show, "check": check, "convert": convert, "run": run, "compare": compare}
