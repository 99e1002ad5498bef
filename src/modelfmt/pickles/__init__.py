"""Pickles as data: a machine that follows the opcodes and builds a tree, imports nothing and calls nothing.

`modelfmt.pickles.machine.load` reads one pickle. What a tree means (a tensor, an array, a fitted estimator) is said by
the formats that hold pickles.
"""
