"""From a folder of meshes to training episodes."""
