"""Nodes of one's own: each file beside this one is a kind."""
