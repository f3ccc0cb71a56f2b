"""Ouroboros3D: views drawn while their reconstruction is looked at."""
