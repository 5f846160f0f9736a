"""Particles in flow: rows, optics and simulation, bursts, a model's outputs, sorting, scores."""
