"""`norse_network`: a spiking network from a NIR file, run by Norse."""

from __future__ import annotations

from typing import Literal

from streamflow.node import Node

from .spiking_network import SpikingNetwork, SpikingNetworkSettings


class NorseNetworkSettings(SpikingNetworkSettings, frozen=True, kw_only=True):
    """Those of spiking_network."""

    backend: Literal["norse"] = "norse"
    """What runs it."""


class NorseNetwork(SpikingNetwork, Node[NorseNetworkSettings]):
    """As spiking_network, with the same ports and settings, but each step is Norse's: to compare.

    Put it in place of a `spiking_network`, or beside it, to see what the framework that a network
    was trained in makes of the same stream. It takes some fifty to a hundred times as long
    (docs/results/spiking_networks.md). The file is read by Norse's own importer; what that importer
    lacks or leaves out (Conv1d, AvgPool2d, Scale, Delay, Threshold, I, LI, CubaLI; r, v_reset of IF
    and LIF; the exact integrator; reset by subtraction but for CubaLIF; two ways of unequal length
    into one layer) is refused with the layer's name. Needs the extra `norse`. Runs PyTorch in one
    thread.

        slow:
          kind: norse_network
          inputs: {events: camera.events}
          settings: {model: digits.nir, step: 0.001}
    """
