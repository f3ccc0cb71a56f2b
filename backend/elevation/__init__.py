"""The elevation of the picture's camera above the horizon."""
