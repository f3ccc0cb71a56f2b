"""Zero-1-to-3: Stable Diffusion taught to turn the object of a picture (Liu et al., 2023)."""
