"""NumPy's element types and array headers as data: descriptions, `.npy` headers, text and structured arrays.

No `eval`, no `ast`: headers are read by a grammar of six kinds of literals (`literal`).
"""
