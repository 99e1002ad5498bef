"""Quantized types: arrays in and out of them, which tensor gets which, and importance matrices."""
