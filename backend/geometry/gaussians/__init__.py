"""3D Gaussians: the value, its differentiable renderer on either device, and its files."""
