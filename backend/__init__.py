"""The process that turns a picture into a mesh: networks, pipelines, server, command line. Never bpy."""
