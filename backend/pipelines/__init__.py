"""Compositions of stages from a picture to a mesh."""
