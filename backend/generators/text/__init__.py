"""Pictures from text, so that a prompt can stand in for the picture that a mesh is made from."""
