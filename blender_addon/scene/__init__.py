"""Between Blender's data and the protocol's arrays. Nothing in here knows of connections, jobs or panels."""
