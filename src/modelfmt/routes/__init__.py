"""From a model to the tensors, metadata and layout of one destination: one file for each kind of destination."""
