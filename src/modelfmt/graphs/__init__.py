"""Compute graphs built from architecture tables, their lowering to operator sets, and a reference that runs them."""
