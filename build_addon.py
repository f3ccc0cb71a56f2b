"""Builds the installable zips of the Blender add-on: `python build_addon.py [--platform PLATFORM]`.

A zip holds the content of blender_addon/, protocol/ as its subpackage, and the wheels that it needs for every Python
that Blender ships. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from platform import machine
from string import Template

ROOT = Path(__file__).resolve().parent
ADDON = ROOT / "blender_addon"
REQUIREMENTS = ADDON / "requirements.txt"

PYTHONS = ("3.11", "3.13", "3.14")
"""Pythons of Blender 4.2-5.0, of 5.1 and later, and of Linux distributions that build Blender on their own.

Blender installs only wheels whose tags name its Python, and takes the set of Pythons from the exact tags. pyzmq's
stable-ABI wheel for 3.12 and later is therefore accepted only because msgspec's tags name 3.13 and 3.14.
"""

PIP_PLATFORMS = {
    "linux-x64": ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_11_0_arm64",),
    "macos-x64": ("macosx_10_15_x86_64",),
}
EPOCH = (1980, 1, 1, 0, 0, 0)
LEFT_OUT = {"requirements.txt", "blender_manifest.toml"}


def this_platform() -> str:
    """The platform of this machine, as Blender calls it."""
    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    return f"{system}-{'arm64' if machine().lower() in {'arm64', 'aarch64'} else 'x64'}"


def wheels(platform: str) -> list[Path]:
    """The pinned wheels of a platform, downloaded once and checked against their hashes by pip."""
    pins = hashlib.sha256(REQUIREMENTS.read_bytes() + repr((PYTHONS, PIP_PLATFORMS[platform])).encode())
    folder = ROOT / ".cache" / "wheels" / f"{platform}-{pins.hexdigest()[:12]}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for python in PYTHONS:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--only-binary=:all:", "--require-hashes", "--implementation=cp", f"--python-version={python}"]
            command += [f"--platform={tag}" for tag in PIP_PLATFORMS[platform]]
            subprocess.run([*command, "--dest", str(partial), "--requirement", str(REQUIREMENTS)], check=True)
        partial.rename(folder)
    return sorted(folder.glob("*.whl"))


def manifest(version: str, platform: str, wheel_names: list[str]) -> str:
    """blender_manifest.toml with its blanks filled in; JSON's lists are TOML's lists."""
    template = Template((ADDON / "blender_manifest.toml").read_text(encoding="utf-8"))
    return template.substitute(
        version=version,
        platforms=json.dumps([platform]),
        wheels=json.dumps([f"./wheels/{name}" for name in wheel_names], indent=2),
    )


def content(version: str, platform: str) -> dict[str, bytes]:
    """Every file of the zip by its path in it."""
    files = {"LICENSE": (ROOT / "LICENSE").read_bytes()}
    for folder, prefix in ((ADDON, ""), (ROOT / "protocol", "protocol/")):
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and "__pycache__" not in path.parts and name not in LEFT_OUT:
                files[prefix + name] = path.read_bytes()
    carried = wheels(platform)
    files |= {f"wheels/{path.name}": path.read_bytes() for path in carried}
    files["blender_manifest.toml"] = manifest(version, platform, [path.name for path in carried]).encode()
    return files


def build(platform: str, folder: Path = ROOT / "dist") -> Path:
    """Writes the zip of a platform into `folder` and returns its path."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"turnaround-{version}-{platform}.zip"
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, data in sorted(content(version, platform).items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    partial.replace(target)
    return target


def blender_validator() -> list[str] | None:
    """The command of Blender's own `extension validate`: of an installed bpy, else of a Blender on the path."""
    pattern = "bpy/*/scripts/addons_core/bl_pkg/cli/blender_ext.py"
    environments = [*ROOT.glob(".venv-bpy-*"), Path(sys.prefix)]
    packages = [
        site for env in environments for site in (*env.glob("lib/python3*/site-packages"), env / "Lib/site-packages")
    ]
    found = sorted(path for site in packages for path in site.glob(pattern))
    if found:
        return [sys.executable, str(found[-1]), "validate"]
    blender = shutil.which("blender")
    return [blender, "--command", "extension", "validate"] if blender else None


def main() -> None:
    """Builds and validates what was asked for."""
    parser = argparse.ArgumentParser(description="Build the installable zips of the Blender add-on into dist/.")
    parser.add_argument("--platform", choices=[*PIP_PLATFORMS, "all"], default="all")
    chosen = parser.parse_args().platform
    validator = blender_validator()
    for platform in PIP_PLATFORMS if chosen == "all" else [chosen]:
        target = build(platform)
        if validator:
            checked = subprocess.run([*validator, str(target)], capture_output=True, text=True, check=False)
            if checked.returncode:
                target.unlink()
                sys.exit(f"Blender refuses {target.name}:\n{checked.stdout}{checked.stderr}")
        state = "validated by Blender" if validator else "not validated: neither bpy nor Blender is installed here"
        print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1e6:.1f} MB  {state}")


if __name__ == "__main__":
    main()
