"""The add-on without a backend: what it offers, what it says, what is left when it goes. Runs inside Blender."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.turnaround"
session = import_module(f"{PACKAGE}.session")
engines = import_module(f"{PACKAGE}.engines")
problems = import_module(f"{PACKAGE}.problems")
messages = import_module(f"{PACKAGE}.protocol.messages")
errors = import_module(f"{PACKAGE}.protocol.errors")


def preferences():
    return bpy.context.preferences.addons[PACKAGE].preferences


def picture():
    image = bpy.data.images.new("mug.png", 64, 64)
    bpy.context.scene.turnaround.picture = image
    return image


def test_without_a_backend_there_is_one_thing_to_do():
    current = session.current()
    for _ in range(3):
        assert current.tick() > 0
    assert current.problem is None, current.details()
    assert current.link.status() == "Not Running"
    assert current.needs_set_up()
    picture()
    assert bpy.ops.turnaround.generate() == {"CANCELLED"}
    assert current.problem.code == "backend.missing"
    assert problems.remedy(current.problem.code).label == "Set Up Backend"
    assert current.job is None
    assert current.problem.sentence in current.details()
    bpy.ops.turnaround.dismiss_problem()
    assert current.problem is None


def test_generate_says_why_it_cannot_run():
    bpy.context.scene.turnaround.picture = None
    assert not bpy.ops.turnaround.generate.poll()
    assert not bpy.ops.turnaround.cancel.poll()
    assert not bpy.ops.turnaround.rebuild.poll()
    picture()
    assert bpy.ops.turnaround.generate.poll()


def test_backend_that_cannot_start_is_explained():
    current = session.current()
    preferences().python = str(Path(sys.executable))  # a Python that has no backend
    assert not current.needs_set_up()
    picture()
    bpy.ops.turnaround.generate()
    assert current.job is not None
    assert current.job.describe() == "Starting"
    wait(lambda: current.job is None)
    assert current.problem.code == "backend.absent"
    assert "backend" in current.problem.details
    assert str(Path.home()) not in current.details()
    preferences().python = ""


def test_backend_is_found_by_its_python_its_environment_or_the_projects_folder():
    process = import_module(f"{PACKAGE}.process")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        python = process.python_in(project / ".venv")
        python.parent.mkdir(parents=True)
        python.touch()
        for chosen in (python, project / ".venv", project):
            assert process.find_command(str(chosen), "") == [str(python), "-m", "backend.cli"], chosen


def test_remaining_time_counts_down_while_a_stage_tells_nothing():
    jobs, results = import_module(f"{PACKAGE}.jobs"), import_module(f"{PACKAGE}.scene.results")
    wish = results.Wish(name="mug", picture="mug.png", size=(64, 64), group="a", cursor=(0.0, 0.0, 0.0))
    job = jobs.Job("one2345", messages.Settings(), None, wish, "Scene", "Generate from Image")
    job.event = messages.Event(job="a" * 32, number=1, stage="Meshing", remaining_seconds=600.0)
    job.event_time = time.monotonic() - 540.5
    assert job.describe() in {"Meshing, 59 s left", "Meshing, 60 s left"}
    job.event_time -= 60.0
    assert job.describe() == "Meshing"


def test_remote_backend_needs_a_connection_string_and_online_access():
    current = session.current()
    preferences().place = "REMOTE"
    preferences().connection_string = "hello"
    current.tick()
    assert current.problem.code == "connection.string"
    connection = import_module(f"{PACKAGE}.protocol.connection")
    security = import_module(f"{PACKAGE}.protocol.security")
    keys = security.client_keys("remote")
    preferences().connection_string = connection.Address("192.0.2.1", 5, keys.public, keys).string()
    assert not bpy.app.online_access
    current.tick()
    assert current.problem.code == "online.denied"
    assert keys.secret not in current.details()
    preferences().connection_string = connection.Address("127.0.0.1", 1, keys.public, keys).string()
    wait(lambda: current.problem is not None)
    assert current.problem.code == "backend.unreachable", current.details()
    preferences().place = "LOCAL"
    assert current.problem is None


def wait(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, session.current().details() or "nothing happened"
        time.sleep(min(session.current().tick(), 0.05))


def test_set_up_that_fails_is_explained_and_leaves_no_environment():
    current = session.current()
    assert not bpy.app.online_access
    assert bpy.ops.turnaround.set_up_backend(source="/") == {"CANCELLED"}, "it downloads nothing that is not allowed"
    folder = import_module(f"{PACKAGE}.settings").own_folder(create=True)
    source = folder / "empty"
    source.mkdir()
    current.install(str(source), folder)
    assert current.installation.text == "Making the Environment"
    wait(lambda: current.installation is None, seconds=120)
    assert current.problem.code == "setup.failed"
    assert "Downloading" in current.problem.sentence
    assert "pyproject.toml" in current.problem.details
    assert not (folder / "environment").exists()
    source.rmdir()
    current.dismiss()


def test_an_unknown_engine_appears_with_its_own_settings():
    options = (
        messages.OptionSpec(name="views", label="Views", description="How many.", default=8, minimum=1, maximum=16),
        messages.OptionSpec(name="guidance", label="Guidance", description="", default=3.0, minimum=0.0),
        messages.OptionSpec(name="steps", label="Steps", description="", default=4, automatic=True, minimum=1),
        messages.OptionSpec(name="sharp", label="Sharp", description="", default=True),
        messages.OptionSpec(name="mode", label="Mode", description="", default="slow", choices=("fast", "slow")),
    )
    offered = (
        messages.PipelineInfo(name="one2345", label="One-2-3-45", description="Ours."),
        messages.PipelineInfo(name="acme.model-9", label="Acme", description="Somebody else's.", options=options),
    )
    scene = bpy.context.scene
    engines.offer(offered)
    assert scene.turnaround.engine == "one2345"
    scene.turnaround.engine = "acme.model-9"
    engine = engines.chosen(scene)
    assert engine.label == "Acme"
    group = getattr(scene, engines.attribute(engine.name))
    group.views = 99
    group.mode = "fast"
    chosen = {"views": 16, "guidance": 3.0, "sharp": True, "mode": "fast"}
    assert engines.options_of(scene, engine) == chosen, "what is automatic is left to the backend"
    group.set_steps = True
    assert engines.options_of(scene, engine) == chosen | {"steps": 4}
    group.set_steps = False
    group.steps = 6
    assert engines.options_of(scene, engine) == chosen | {"steps": 6}, "who gives a value need not set it as well"
    engines.offer(offered[:1])
    assert not hasattr(scene, engines.attribute("acme.model-9"))
    assert engines.chosen(scene).name == "one2345"
    engines.withdraw()


def test_every_code_that_a_button_fixes_names_a_real_operator():
    for remedy in problems.REMEDIES.values():
        module, _, name = remedy.operator.partition(".")
        assert getattr(getattr(bpy.ops, module), name).get_rna_type(), remedy


def test_nothing_is_left_behind():
    user_folder = Path(bpy.utils.extension_path_user(PACKAGE, create=True))
    bpy.ops.extensions.package_uninstall(repo_index=user_repository(), pkg_id="turnaround")
    assert PACKAGE not in bpy.context.preferences.addons
    left = [name for name in dir(bpy.types) if name.startswith("TURNAROUND_")]
    left += [
        name
        for kind in (bpy.types.Scene, bpy.types.Object, bpy.types.Image)
        for name in dir(kind)
        if name.startswith("turnaround")
    ]
    left += [
        f"{handlers}: {function}"
        for handlers in (bpy.app.handlers.load_post, bpy.app.handlers.undo_post, bpy.app.handlers.redo_post)
        for function in handlers
        if function.__module__.startswith(PACKAGE)
    ]
    profile = Path(os.environ["BLENDER_USER_RESOURCES"])
    left += [str(path) for path in profile.rglob("*") if path.is_file() and "turnaround" in path.parts]
    assert not left, left
    assert not user_folder.exists()


def user_repository():
    repositories = bpy.context.preferences.extensions.repos
    return next(number for number, repository in enumerate(repositories) if repository.module == "user_default")
