"""SparseNeuS as One-2-3-45 uses it: views to a cost volume to a signed distance field."""
