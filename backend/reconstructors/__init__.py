"""From views to a field that knows how to become a mesh."""
