"""Graphs of fitted scikit-learn estimators: one file per family, a table from class names to functions (`table`)."""
