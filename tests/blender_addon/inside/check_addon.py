"""The add-on without a backend: what is registered, drawn and said. Runs inside Blender."""

from __future__ import annotations

import bpy

PACKAGE = "bl_ext.user_default.turnaround"


def test_smoke():
    from importlib import import_module
    session = import_module(PACKAGE + ".session")
    print(session.current().status(), session.current().needs_set_up())
    for i in range(5):
        print(session.current().tick())
    print(session.current().problem and session.current().details())
    assert not session.current().problem
