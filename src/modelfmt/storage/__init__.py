"""Bytes on disk: reading at offsets, preallocated atomic outputs, names that stay in their folder."""
