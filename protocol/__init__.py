"""The contract between Blender (or a terminal) and the backend: messages, framing, keys, and the one client.

Needs the standard library, numpy, msgspec and pyzmq; never bpy and never torch. The add-on carries this folder
inside its zip, therefore every import within it is relative.
"""
