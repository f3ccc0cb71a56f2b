"""How good the meshes are: alignment, metrics, baselines, report."""
