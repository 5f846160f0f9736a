"""The slow reference itself, against what others recorded and against PyTorch."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest
from reference import convolve, convolve_1d, pool, run

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir"
needs_data = pytest.mark.skipif(
    not DATA.exists(), reason="the NIR paper's graphs and recordings are not here"
)


@needs_data
def test_lif_is_norse_s_by_euler_and_the_exact_solution_by_exact() -> None:
    graph, recorded = nir.read(DATA / "lif_norse.nir"), np.load(DATA / "lif_expected.npz")
    x = recorded["x"][:, None]

    euler = run(graph, x, dt=1e-4)
    exact = run(graph, x, dt=1e-4, integrator="exact", reset="subtract")

    assert (euler.output[:, 0] == recorded["norse_s"]).all()
    assert np.abs(euler.membrane["1"][:, 0] - recorded["norse_v"]).max() < 1e-5
    assert (exact.output[:, 0] == recorded["exact_s"]).all()
    assert np.abs(exact.membrane["1"][:, 0] - recorded["exact_v"]).max() < 1e-3


@needs_data
def test_recurrent_cuba_lif_is_snntorch_s() -> None:
    graph = nir.read(DATA / "braille_noDelay_bias_zero.nir")
    recorded = np.load(DATA / "braille_bias_zero_expected.npz")

    given = run(graph, recorded["x"], dt=1e-4).given["lif1.lif"]

    assert given.shape == (256, 38)
    assert (given == recorded["act_snntorch"]).all()


@needs_data
def test_the_convolutional_network_counts_as_norse_does() -> None:
    data = np.load(DATA / "nmnist100" / "nmnist_test100.npz")
    expected = np.load(DATA / "nmnist100" / "scnn_expected.npz")
    part = slice(*data["offsets"][:2])
    t = data["t"][part].astype(np.int64) - data["t"][part][0]
    x = np.zeros((t[-1] // 1000, 2, 34, 34))
    inside = t // 1000 < len(x)
    at = (t // 1000, data["p"][part], data["y"][part], data["x"][part])
    np.add.at(x, tuple(a[inside] for a in at), 1)

    counts = run(nir.read(DATA / "cnn_sinabs.nir"), x).output.sum(axis=0)

    assert counts.tolist() == expected["norse_counts"][0].tolist()


@pytest.mark.parametrize("padding", [(2, 0), "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_pools_are_pytorch_s(padding: object, groups: int) -> None:
    torch = pytest.importorskip("torch", reason="the extra norse (PyTorch) is not installed")
    f = torch.nn.functional
    rng = np.random.default_rng(5)
    x, w, b = (
        rng.normal(size=(4, 9, 7)),
        rng.normal(size=(6, 4 // groups, 3, 2)),
        rng.normal(size=6),
    )
    stride = (1, 1) if padding == "same" else (2, 3)
    conv = nir.Conv2d((9, 7), w, stride, padding, (1, 2), groups, b)
    flat = nir.Conv1d(9, w[..., 0], 1, padding if isinstance(padding, str) else 2, 2, groups, b)
    tensors = [torch.from_numpy(a) for a in (x, w, b)]

    theirs = f.conv2d(*tensors, stride, padding, (1, 2), groups).numpy()
    theirs_1d = f.conv1d(
        tensors[0][..., 0], tensors[1][..., 0], tensors[2], 1, flat.padding, 2, groups
    ).numpy()

    np.testing.assert_allclose(convolve(x, conv), theirs, atol=1e-12)
    np.testing.assert_allclose(convolve_1d(x[..., 0], flat), theirs_1d, atol=1e-12)
    pooling = nir.SumPool2d(np.array([3, 2]), np.array([2, 1]), np.array([1, 1]))
    theirs = f.avg_pool2d(tensors[0], (3, 2), (2, 1), (1, 1)).numpy() * 6
    np.testing.assert_allclose(pool(x, pooling), theirs, atol=1e-12)
