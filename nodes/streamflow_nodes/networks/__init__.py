"""Spiking networks from NIR files: reading, wiring, rules, and the back ends that run them.

The way of a file: `nir_file.read_nir` reads and repairs it, `wiring.wire` flattens it into units in
evaluation order, `rules.Rules` says what NIR leaves open, and a `backend.Backend` runs it.
"""
