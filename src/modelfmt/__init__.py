"""Turns any machine-learning model format into any other."""
