from __future__ import annotations

import subprocess
import tomllib
import zipfile

import blender_runner
import pytest

import build_addon


@pytest.mark.blender
def test_same_input_gives_the_same_bytes(addon_zip, tmp_path):
    assert build_addon.build(build_addon.this_platform(), tmp_path).read_bytes() == addon_zip.read_bytes()


@pytest.mark.blender
def test_zip_holds_the_addon_its_protocol_and_wheels_for_every_python(addon_zip):
    with zipfile.ZipFile(addon_zip) as archive:
        names = archive.namelist()
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    project = tomllib.loads((build_addon.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest["version"] == project["version"]
    assert manifest["platforms"] == [build_addon.this_platform()]
    assert {"__init__.py", "LICENSE", "protocol/client.py", "scene/meshes.py"} <= set(names)
    assert sorted(manifest["wheels"]) == sorted(f"./{name}" for name in names if name.endswith(".whl"))
    for package, tags in (
        ("msgspec", ("cp311-cp311", "cp313-cp313", "cp314-cp314")),
        ("pyzmq", ("cp311", "cp312-abi3")),
    ):
        for tag in tags:
            assert [name for name in names if package in name and tag in name], (package, tag)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("backend", "tests"))]


@pytest.mark.blender
def test_blender_accepts_the_zip(addon_zip):
    blender_runner.bpy_python()  # makes an environment with Blender's own validator, where there is none
    validator = build_addon.blender_validator()
    assert validator is not None
    checked = subprocess.run([*validator, str(addon_zip)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
