"""Cameras, meshes and what can be done with them; no networks."""
