"""The rooms stay apart, small and safe: read from the source of every tracked file, nothing is imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("backend", "protocol", "blender_addon")
MAX_LINES = 450
"""The plan says about 400; a file that needs more holds two ideas."""

STDLIB = frozenset(sys.stdlib_module_names)
BLENDER = {"bpy", "bpy_extras", "mathutils", "gpu", "gpu_extras", "blf", "bmesh", "bl_ui", "bl_math", "imbuf", "idprop"}
ALLOWED = {
    "protocol": STDLIB | {"zmq", "msgspec", "numpy"},
    "blender_addon": STDLIB | BLENDER | {"numpy", "msgspec", "addon_utils", "rna_keymap_ui"},
}
"""What a room may import by an absolute name. The zip holds the protocol inside the add-on: both name it relatively."""

BACKEND_FORBIDDEN = BLENDER | {"blender_addon", "bl_ext", "tests"}


class Import(NamedTuple):
    """One import: the dotted module, how many dots precede it, its line, and whether importing the file runs it."""

    module: str
    level: int
    line: int
    at_import: bool


def tracked() -> list[Path]:
    """The files of the project: git's if this is a checkout, else everything that is not hidden or made."""
    git = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if git.returncode == 0:
        names = [Path(name.decode()) for name in git.stdout.split(b"\0") if name]
    else:
        made = {"build", "dist", "out"}
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        names = [p for p in paths if not any(part.startswith(".") or part in made for part in p.parts)]
    return sorted(ROOT / name for name in names if (ROOT / name).is_file())


def sources(*rooms: str) -> list[Path]:
    """Python files below the named rooms."""
    return [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in rooms]


def walk(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, with whether it runs when the file is imported (outside functions and `if TYPE_CHECKING`)."""
    yield node, at_import
    inside_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    only_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from walk(child, at_import and not inside_function and not only_typing)


def imports(tree: ast.AST) -> Iterator[Import]:
    """Import statements anywhere in a file, and `importlib.import_module("name")` with a literal name."""
    for node, at_import in walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, 0, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.module or "", node.level, node.lineno, at_import)
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func).split(".")[-1] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            name = str(node.args[0].value)
            yield Import(name.lstrip("."), len(name) - len(name.lstrip(".")), node.lineno, at_import)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def escapes(path: Path, found: Import) -> bool:
    """Whether a relative import climbs out of its room."""
    folders_deep = len(path.relative_to(ROOT).parts) - 1
    return found.level > folders_deep


def trespasses(path: Path, tree: ast.AST) -> list[str]:
    """What the file imports and may not, as `module (line n)`."""
    room = path.relative_to(ROOT).parts[0]
    wrong = []
    for found in imports(tree):
        top = found.module.split(".")[0]
        if found.level:
            bad = escapes(path, found)
        elif room == "backend":
            bad = top in BACKEND_FORBIDDEN or top.startswith("bl_")
        else:
            bad = top not in ALLOWED[room] and not (
                room == "blender_addon" and top.startswith("bl_") and top != "bl_ext"
            )
        if top == "gsplat" and found.at_import:
            bad = True  # it compiles CUDA code when imported, and most machines have none
        if bad:
            wrong.append(f"{'.' * found.level}{found.module} (line {found.line})")
    return wrong


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Calls that could run what a file or a stranger says: eval, exec, pickle, torch.load without weights_only."""
    wrong = []
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    for node, _ in walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            keywords = {k.arg: k.value for k in node.keywords}
            if name in ("eval", "exec", "builtins.eval", "builtins.exec"):
                wrong.append(f"{name} (line {line})")
            if name == "torch.load" and not is_constant(keywords.get("weights_only"), True):
                wrong.append(f"torch.load without weights_only=True (line {line})")
            if is_constant(keywords.get("allow_pickle"), True):
                wrong.append(f"allow_pickle=True (line {line})")
            if name.split(".")[-1] in ("send_pyobj", "recv_pyobj"):
                wrong.append(f"{name} (line {line})")
    wrong += [f"{i.module} (line {i.line})" for i in imports(tree) if i.module.split(".")[0] in pickles]
    return wrong


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    paths = sources(room)
    assert paths, f"no source found in {room}/"
    wrong = {str(p.relative_to(ROOT)): t for p in paths if (t := trespasses(p, ast.parse(p.read_text("utf-8"))))}
    assert not wrong


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("protocol/client.py", "import torch"),
        ("protocol/client.py", "from protocol.messages import Hello"),
        ("protocol/client.py", "from ..backend import cli"),
        ("backend/cli.py", "def f():\n    import bpy"),
        ("backend/cli.py", "import blender_addon.session"),
        ("backend/geometry/gaussians.py", "import gsplat"),
        ("backend/geometry/gaussians.py", "try:\n    from gsplat import rasterization\nexcept ImportError: pass"),
        ("blender_addon/session.py", "from protocol import client"),
        ("blender_addon/session.py", "import zmq"),
        ("blender_addon/session.py", "import torch"),
        ("blender_addon/session.py", "from ..backend import cli"),
        ("blender_addon/session.py", "importlib.import_module('backend.cli')"),
    ],
)
def test_a_trespass_is_seen(where, code):
    assert trespasses(ROOT / where, ast.parse(code))


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("protocol/client.py", "import zmq\nfrom .messages import Hello\nfrom collections.abc import Iterator"),
        ("backend/geometry/gaussians.py", "def draw():\n    import gsplat"),
        ("backend/cli.py", "from protocol.messages import Hello\nimport torch"),
        ("blender_addon/panels/main.py", "import bpy\nfrom mathutils import Matrix\nfrom ..protocol import client"),
    ],
)
def test_what_a_room_needs_is_allowed(where, code):
    assert not trespasses(ROOT / where, ast.parse(code))


def test_nothing_in_the_rooms_runs_what_it_reads():
    wrong = {
        str(p.relative_to(ROOT)): calls
        for p in sources(*ROOMS)
        if (calls := unsafe_calls(ast.parse(p.read_text("utf-8"))))
    }
    assert not wrong
    for code in ("eval('1')", "import pickle", "torch.load(p)", "torch.load(p, weights_only=False)", "s.recv_pyobj()"):
        assert unsafe_calls(ast.parse(code)), code
    assert not unsafe_calls(ast.parse("torch.load(p, weights_only=True)\nmodel.eval()"))


def test_every_file_holds_one_idea():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in sources(*ROOMS)}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def test_no_path_of_a_machine_is_written_down():
    machine = re.compile(rb"(?<![\w.~$}])/(?:home|root|work|Users)/")
    assert machine.search(b'"/' + b'home/ada/x"')
    wrong = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:
            continue  # pictures and weights
        wrong += [f"{path.relative_to(ROOT)}: {m.group().decode()}" for m in machine.finditer(content)]
    assert not wrong


def depends_on(path: Path) -> set[Path]:
    """The project's files that a file imports, when it is imported or later; for its types alone does not count."""

    def file(parts: tuple[str, ...]) -> Path | None:
        base = ROOT.joinpath(*parts)
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if parts and p.is_file()), None)

    tree = ast.parse(path.read_text("utf-8"))
    typing_only = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    skipped = {id(inner) for node in typing_only for inner in ast.walk(node)}
    package = path.relative_to(ROOT).parts[:-1]
    found: set[Path | None] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {file(tuple(alias.name.split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *(node.module or "").split(".")) if node.module else start
            inner = {file((*module, alias.name)) for alias in node.names}
            # `from package import module` needs the package's own file only for what is no module
            found |= inner - {None} if None not in inner else {*inner, file(module)}
    return {p for p in found if p is not None and p != path}


@pytest.mark.parametrize("room", ROOMS)
def test_no_imports_run_in_a_circle(room):
    graph = {p: {d for d in depends_on(p) if d.relative_to(ROOT).parts[0] == room} for p in sources(room)}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(str(p.relative_to(ROOT)) for p in error.args[1]))
    assert len(order) == len(graph)
    assert any(graph.values()), "no import was resolved"
