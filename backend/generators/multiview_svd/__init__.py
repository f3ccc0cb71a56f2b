"""Ouroboros3D's view generator: video diffusion that draws all views at once and is shown its own reconstruction."""
