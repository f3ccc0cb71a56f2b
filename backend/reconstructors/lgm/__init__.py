"""LGM (Tang et al. 2024), and Ouroboros3D's variant of it: four views to 3D Gaussians."""
