"""The one material: the colour attribute on Base Color, so that what Solid shows is what renders."""

from __future__ import annotations

import bpy

from .meshes import COLOR_ATTRIBUTE

MATERIAL = "Turnaround"


def shared_material() -> bpy.types.Material:
    """The material of every result, made when it is first needed.

    All results share it, so that one change of roughness reaches them all; an artist who edits it keeps her changes.
    """
    material = bpy.data.materials.get(MATERIAL)
    if material is not None and _reads_attribute(material):
        return material
    material = bpy.data.materials.new(MATERIAL)
    if material.node_tree is None:  # before Blender 5 a new material has no nodes until it is told to
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    color = nodes.new("ShaderNodeVertexColor")  # its label in Blender is "Color Attribute"
    color.layer_name = COLOR_ATTRIBUTE
    color.location = (shader.location.x - 220.0, shader.location.y)
    links.new(color.outputs["Color"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = 0.7
    return material


def _reads_attribute(material: bpy.types.Material) -> bool:
    tree = material.node_tree
    return tree is not None and any(
        node.type == "VERTEX_COLOR" and node.layer_name == COLOR_ATTRIBUTE for node in tree.nodes
    )
