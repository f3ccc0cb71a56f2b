"""Conversions between Blender's data and the protocol's arrays. Runs inside Blender."""

from __future__ import annotations

import math
import tempfile
from importlib import import_module
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

PACKAGE = "bl_ext.user_default.turnaround"
cameras, colors, images, materials, meshes, placement, preview, results, silhouettes = (
    import_module(f"{PACKAGE}.scene.{name}")
    for name in (
        "cameras",
        "colors",
        "images",
        "materials",
        "meshes",
        "placement",
        "preview",
        "results",
        "silhouettes",
    )
)
messages = import_module(f"{PACKAGE}.protocol.messages")
errors = import_module(f"{PACKAGE}.protocol.errors")


def asymmetric():
    """An L with a foot to +X and a nose to -Y: vertices float32 [N, 3] in the object frame, faces, colours."""
    boxes = [
        ((-0.3, -0.05, -0.4), (-0.1, 0.05, 0.4), (200, 30, 30)),
        ((-0.3, -0.05, -0.4), (0.3, 0.05, -0.2), (30, 200, 30)),
        ((-0.28, -0.25, 0.1), (-0.16, -0.05, 0.2), (30, 30, 200)),
    ]
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = np.array([t for q in quads for t in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))], dtype=np.int32)
    vertices = np.concatenate([np.array(a, np.float32) + corners * (np.array(b, np.float32) - a) for a, b, _ in boxes])
    faces = np.concatenate([triangles + 8 * number for number in range(len(boxes))]).astype(np.int32)
    colours = np.repeat(np.array([[*rgb, 255] for _, _, rgb in boxes], dtype=np.uint8), 8, axis=0)
    return vertices.astype(np.float32), faces, colours


def raises(code, function, *arguments):
    try:
        function(*arguments)
    except errors.TurnaroundError as error:
        caught = error
    else:
        raise AssertionError(f"nothing was raised, {code} was expected")
    assert caught.code == code, f"{caught.code}: {caught}"
    assert caught.sentence
    assert caught.hint


# ------------------------------------------------------------------------------------------------------------ images


def pattern(width=40, height=24):
    rgba = np.zeros((height, width, 4), dtype=np.uint8)
    rgba[..., 0] = np.arange(width) * 6
    rgba[..., 1] = np.arange(height)[:, None] * 10
    rgba[..., 2] = 77
    rgba[..., 3] = 255
    rgba[: height // 2, : width // 4, 3] = 128
    return rgba


def test_unsaved_image_round_trips_with_its_top_row_first():
    rgba = pattern()
    image = images.write("pattern", rgba)
    assert not image.filepath
    assert np.array_equal(images.read(image), rgba)
    first_pixel_of_blender = np.array(image.pixels[:4]) * 255
    assert np.allclose(first_pixel_of_blender, rgba[-1, 0], atol=0.5)


def test_saved_and_packed_images_read_alike():
    rgba = pattern()
    rgba[..., 3] = 255
    image = images.write("saved", rgba)
    with tempfile.TemporaryDirectory() as folder:
        image.filepath_raw, image.file_format = str(Path(folder) / "saved.png"), "PNG"
        image.save()
        again = bpy.data.images.load(str(Path(folder) / "saved.png"))
        assert np.array_equal(images.read(again), rgba)
        again.pack()
    again.reload()
    assert np.array_equal(images.read(again), rgba)


def test_painted_pixels_are_read_and_not_the_file():
    image = images.write("painted", pattern())
    image.pack()
    image.pixels[0:4] = (1.0, 0.0, 0.0, 1.0)
    assert tuple(images.read(image)[-1, 0]) == (255, 0, 0, 255)


def test_float_image_is_light_with_premultiplied_alpha():
    image = bpy.data.images.new("float", 16, 16, alpha=True, float_buffer=True)
    alpha, srgb = 0.5, 0.6
    light = float(colors.linear_from_srgb(np.float32(srgb)))
    image.pixels.foreach_set(np.tile(np.array([light * alpha, 0.0, 4.0, alpha], np.float32), 256))
    assert tuple(images.read(image)[3, 3]) == (round(srgb * 255), 0, 255, 128)


def test_linear_bytes_become_display_values():
    image = bpy.data.images.new("linear", 16, 16)
    image.colorspace_settings.name = "Linear Rec.709"
    images.write("linear", np.full((16, 16, 4), 128, np.uint8), image)
    expected = colors.srgb_from_linear(np.float32(128 / 255)) * 255
    assert abs(int(images.read(image)[0, 0, 0]) - float(expected)) <= 0.5


def test_sixteen_bit_and_grey_files_read():
    scene = bpy.context.scene
    settings = scene.render.image_settings
    rgba = pattern()
    rgba[..., 3] = 255
    image = images.write("deep", rgba)
    scene.view_settings.view_transform = "Standard"
    with tempfile.TemporaryDirectory() as folder:
        for depth, mode in (("16", "RGB"), ("8", "BW"), ("16", "BW")):
            settings.file_format, settings.color_mode, settings.color_depth = "PNG", mode, depth
            path = str(Path(folder) / f"{depth}{mode}.png")
            image.save_render(path, scene=scene)
            read = images.read(bpy.data.images.load(path)).astype(int)
            assert read.shape == rgba.shape
            if mode == "RGB":
                assert np.abs(read - rgba).max() <= 1
            else:
                assert (read[..., 0] == read[..., 1]).all()
                assert read[0, -1, 0] > read[0, 0, 0] + 10


def test_unusable_pictures_get_a_sentence():
    raises("picture.small", images.read, bpy.data.images.new("tiny", 1, 1))
    raises("picture.large", images.check_size, 20_000, 20_000)
    raises("picture.large", images.check_size, 20_000, 100)
    raises("picture.transparent", images.read, images.write("clear", np.zeros((32, 32, 4), np.uint8)))
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.png"
        text.write_text("this is no picture")
        image = bpy.data.images.load(str(text), check_existing=False)
        raises("picture.unreadable", images.read, image)


def test_large_picture_comes_back_as_means():
    rgba = np.zeros((8, 12, 4), np.uint8)
    rgba[::2, :, :] = (200, 100, 50, 255)
    half = images.averaged(rgba, 2)
    assert half.shape == (4, 6, 4)
    assert (half == (200, 100, 50, 128)).all()  # the colour of what is there, half of its alpha


def test_contact_sheet_shows_every_picture():
    views = np.stack([np.full((32, 32, 4), 10 * number + 10, np.uint8) for number in range(4)])
    views[..., 3] = 255
    views[3, 16:, :, 3] = 5
    cutout = np.full((100, 100, 4), 255, np.uint8)
    sheet = images.contact_sheet(views, cutout)
    assert sheet.shape == (64, 96, 4)
    assert [int(sheet[y, x, 0]) for y in (5, 40) for x in (5, 40, 70)] == [255, 10, 20, 30, 40, 0]
    assert not sheet[50, 40].any(), "what is as good as transparent has no colour"


def test_thumbnail_dims_what_was_not_cut_out():
    thumbnails = import_module(f"{PACKAGE}.scene.thumbnails")
    picture = np.full((100, 200, 4), 255, np.uint8)
    matte = np.zeros((32, 32), np.uint8)
    matte[:16] = 255  # the upper half of the square is the subject
    framing = messages.Framing(center_x=150.0, center_y=50.0, side=80.0)
    shown = thumbnails.compose(picture, matte, framing)

    def at(x, y):
        scale = thumbnails.SIDE / 200
        return shown[int((y + 50) * scale), int(x * scale)]  # a wide picture stands in the middle of the square

    assert at(150, 30)[0] == 1.0
    assert abs(at(150, 70)[0] - thumbnails.DIMMED) < 1e-6
    assert abs(at(50, 30)[0] - thumbnails.DIMMED) < 1e-6
    assert not shown[2, 2].any(), "beside the picture is nothing, no colour either"
    thumbnails.show("test", shown)
    thumbnails.drop("test")
    thumbnails.drop("test")
    assert not thumbnails.icon("test")


# ------------------------------------------------------------------------------------------------------------ meshes


def test_mesh_is_neither_mirrored_nor_inside_out_and_keeps_its_colours():
    vertices, faces, colours = asymmetric()
    base = meshes.base_of(vertices, height=0.4)
    mesh = meshes.build("asymmetric", base.local(vertices), faces, colours)
    got = meshes.vertices_of(mesh)
    assert abs(got[:, 2].min()) < 1e-6
    assert abs(got[:, 2].max() - 0.4) < 1e-6
    assert np.allclose(base.frame(got), vertices, atol=1e-6)
    nose, foot = got[16:], got[8:16]
    assert nose[:, 1].min() < got[:16, 1].min() - 0.05, "the nose points to -Y"
    assert foot[:, 0].max() > got[:8, 0].max() + 0.1, "the foot points to +X"
    for polygon in mesh.polygons:
        box = got[8 * (polygon.vertices[0] // 8) :][:8]
        assert polygon.normal.dot(polygon.center - Vector(box.mean(axis=0).tolist())) > 0
        assert polygon.use_smooth
    assert np.array_equal(meshes.colors_of(mesh), colours)
    assert mesh.color_attributes.active_color.name == meshes.COLOR_ATTRIBUTE
    assert mesh.color_attributes[mesh.color_attributes.render_color_index].name == meshes.COLOR_ATTRIBUTE
    assert mesh.color_attributes.active_color.data_type == "FLOAT_COLOR"
    assert not mesh.validate(verbose=True), "Blender found something to repair"


def test_damaged_meshes_are_refused():
    vertices, faces, colours = asymmetric()
    outside = faces.copy()
    outside[0, 0] = len(vertices)
    broken = vertices.copy()
    broken[0, 0] = np.nan
    before = len(bpy.data.meshes)
    raises("result.invalid", meshes.build, "x", vertices, outside, colours)
    raises("result.invalid", meshes.build, "x", broken, faces, colours)
    raises("result.invalid", meshes.build, "x", vertices, faces, colours[:3])
    raises("result.invalid", meshes.build, "x", vertices[:0], faces[:0], colours[:0])
    assert len(bpy.data.meshes) == before


def test_material_is_one_and_reads_the_colour_attribute():
    material = materials.shared_material()
    assert materials.shared_material() == material
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    (link,) = shader.inputs["Base Color"].links
    assert link.from_node.layer_name == meshes.COLOR_ATTRIBUTE


def test_colours_show_in_a_render():
    vertices, faces, colours = asymmetric()
    mesh = meshes.build("rendered", vertices, faces, colours)
    mesh.materials.append(materials.shared_material())
    scene = bpy.context.scene
    obj = bpy.data.objects.new("rendered", mesh)
    lamp = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    lamp.data.energy = 3.0
    for member in (obj, lamp):
        scene.collection.objects.link(member)
    lamp.rotation_euler = (math.radians(80), 0, 0)
    scene_camera((0, -2.5, 0), (0, 0, 0), resolution=(64, 64))
    scene.render.engine, scene.cycles.samples, scene.cycles.device = "CYCLES", 8, "CPU"
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGBA", "8"
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "render.png")
        bpy.ops.render.render(write_still=True)
        picture = images.read(bpy.data.images.load(scene.render.filepath)).astype(int)
    view = cameras.picture_view(scene, (64, 64))
    for point, brightest in (((-0.2, -0.05, 0.3), 0), ((0.2, -0.05, -0.3), 1), ((-0.22, -0.25, 0.15), 2)):
        ((column, row),), _ = view.project(np.array([point]))
        pixel = picture[int(row), int(column)]
        assert pixel[3] == 255
        others = [pixel[channel] for channel in range(3) if channel != brightest]
        assert pixel[brightest] > 2 * max(others), (point, pixel)
    for member in (obj, lamp):
        bpy.data.objects.remove(member)


# ----------------------------------------------------------------------------------------------------------- cameras


def scene_camera(
    location, target, *, lens=50.0, shift=(0.0, 0.0), kind="PERSP", resolution=(960, 540), aspect=1.0, fit="AUTO"
):
    scene = bpy.context.scene
    data = bpy.data.cameras.new("camera")
    data.lens, data.type, data.sensor_fit = lens, kind, fit
    data.shift_x, data.shift_y = shift
    data.ortho_scale = 4.0
    camera = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(camera)
    camera.location = location
    camera.rotation_euler = (Vector(target) - Vector(location)).to_track_quat("-Z", "Y").to_euler()
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = resolution
    scene.render.pixel_aspect_x = aspect
    bpy.context.view_layer.update()
    return camera


def test_projection_agrees_with_blenders_own():
    from bpy_extras.object_utils import world_to_camera_view

    points = np.random.default_rng(3).uniform(-0.6, 0.6, (20, 3))
    for kind in ("PERSP", "ORTHO"):
        for fit in ("AUTO", "HORIZONTAL", "VERTICAL"):
            for resolution, aspect in (((960, 540), 1.0), ((400, 900), 1.0), ((500, 500), 1.5)):
                camera = scene_camera(
                    (2, -3, 1.5),
                    (0.2, 0, 0.1),
                    shift=(0.1, -0.2),
                    kind=kind,
                    resolution=resolution,
                    aspect=aspect,
                    fit=fit,
                )
                width, height = round(resolution[0] * aspect), resolution[1]  # a picture that fills the frame
                view = cameras.picture_view(bpy.context.scene, (width, height))
                pixels, depth = view.project(points)
                for point, pixel, far in zip(points, pixels, depth, strict=True):
                    seen = world_to_camera_view(bpy.context.scene, camera, Vector(point))
                    assert np.allclose(pixel, (seen.x * width, (1 - seen.y) * height), atol=0.02), (
                        kind,
                        fit,
                        resolution,
                    )
                    assert abs(far - seen.z) < 1e-4
                    origin, direction = view.ray(*pixel)
                    assert np.linalg.norm(np.cross(point - origin, direction)) < 1e-4


def test_scene_camera_gives_elevation_and_field_of_view():
    for elevation in (-30.0, 0.0, 14.0, 75.0):
        e = math.radians(elevation)
        scene_camera((0, -3 * math.cos(e), 3 * math.sin(e)), (0, 0, 0), lens=50, resolution=(800, 800))
        view = cameras.picture_view(bpy.context.scene, (500, 500))
        assert abs(view.elevation_deg - elevation) < 1e-3
        assert abs(view.fov_deg - math.degrees(2 * math.atan(18 / 50))) < 1e-3
    bpy.context.scene.camera = None
    raises("camera.none", cameras.picture_view, bpy.context.scene, (10, 10))


def test_picture_is_fitted_into_the_frame():
    scene_camera((0, -5, 0), (0, 0, 0), resolution=(800, 400))
    view = cameras.picture_view(bpy.context.scene, (300, 300))  # stands in the middle, bars left and right
    full = cameras.picture_view(bpy.context.scene, (800, 400))
    assert abs(view.fov_deg - full.fov_deg) < 1e-9
    assert np.allclose(view.ray(150, 150)[1], full.ray(400, 200)[1])
    assert np.allclose(view.ray(0, 0)[1], full.ray(200, 0)[1])


def test_orbit_camera_is_the_conventions():
    camera = messages.ViewCamera(elevation_deg=20.0, azimuth_deg=90.0, distance=2.0, fov_deg=40.0)
    right, down, forward = cameras.orbit_rotation(camera).T
    assert np.allclose(right, (0, 1, 0), atol=1e-9), "from +X, the back is to the right"
    assert forward[0] < 0
    assert down[2] < 0


# --------------------------------------------------------------------------------------------------------- placement


def test_raster_is_exact():
    rng = np.random.default_rng(0)
    for scale in (2.0, 12.0, 70.0):
        points = rng.uniform(10, 50, (40, 1, 2)) + rng.uniform(-scale, scale, (40, 3, 2))
        mask = silhouettes.rasterize(points.reshape(-1, 2), np.arange(120, dtype=np.int32).reshape(-1, 3), 64)
        ys, xs = np.mgrid[0:64, 0:64] + 0.5
        expected = np.zeros((64, 64), bool)
        for a, b, c in points.astype(np.float32):
            s = [(q[0] - p[0]) * (ys - p[1]) - (q[1] - p[1]) * (xs - p[0]) for p, q in ((a, b), (b, c), (c, a))]
            expected |= np.all([t >= 0 for t in s], axis=0) | np.all([t <= 0 for t in s], axis=0)
        assert np.count_nonzero(mask != expected) <= 2, scale


def report(elevation=20.0, fov=40.0, framing=(400.0, 300.0, 200.0)):
    distance = 0.58 / math.tan(math.radians(fov) / 2)
    return messages.Report(
        pipeline="x", seed=0, settings=messages.Settings(), elevation_deg=elevation, elevation_source="given",
        elevation_spread_deg=0.0, seconds={},
        camera=messages.ViewCamera(elevation_deg=elevation, azimuth_deg=0.0, distance=distance, fov_deg=fov),
        framing=messages.Framing(center_x=framing[0], center_y=framing[1], side=framing[2]),
    )  # fmt: skip


def matte_of(vertices, faces, told, size=160):
    """What the report's camera sees of the shape: bool [size, size]."""
    camera = told.camera
    e = math.radians(camera.elevation_deg)
    position = camera.distance * np.array([0.0, -math.cos(e), math.sin(e)])
    local = (vertices - position) @ cameras.orbit_rotation(camera)
    focal = 0.5 * size / math.tan(math.radians(camera.fov_deg) / 2)
    return silhouettes.rasterize(local[:, :2] / local[:, 2:] * focal + size / 2, faces, size)


def test_matched_result_covers_its_subject():
    vertices, faces, colours = asymmetric()
    base = meshes.base_of(vertices, height=0.5)
    mesh = meshes.build("matched", base.local(vertices), faces, colours)
    local = meshes.vertices_of(mesh)
    for kind, location, framing, cursor in (
        ("PERSP", (3, -4, 2), (400.0, 300.0, 200.0), None),
        ("PERSP", (0, -6, 3), (150.0, 120.0, 180.0), (0.0, 0.0, 0.0)),
        ("PERSP", (-2, 5, -1), (640.0, 420.0, 260.0), None),
        ("ORTHO", (3, -4, 2), (300.0, 350.0, 240.0), None),
    ):
        scene_camera(location, (0, 0, 0), lens=35, kind=kind, shift=(0.05, 0.0), resolution=(1600, 1200))
        view = cameras.picture_view(bpy.context.scene, (800, 600))
        # What a pipeline that was told the camera's field of view reports of its square, give or take three degrees.
        fov = 10.0 if kind == "ORTHO" else math.degrees(2 * math.atan(0.5 * framing[2] * view.step[1])) + 3.0
        told = report(fov=fov, framing=framing)
        matte = matte_of(vertices, faces, told)
        assert 0.05 < matte.mean() < 0.5
        match = placement.match_camera(local, faces, base, told, matte, view, cursor=Vector(cursor) if cursor else None)
        print(kind, match.overlap)
        assert match.overlap > 0.9, (kind, location, match.overlap)
        if cursor is None and kind == "PERSP":
            assert abs(match.matrix.to_scale().x - 1.0) < 1e-5, "it keeps its size"

        # Independently: Blender's own projection of the placed object, against the matte moved into the picture.
        from bpy_extras.object_utils import world_to_camera_view

        placed = [match.matrix @ Vector(v) for v in local.tolist()]
        seen = [world_to_camera_view(bpy.context.scene, bpy.context.scene.camera, p) for p in placed]
        assert all(s.z > 0 for s in seen)
        pixels = np.array([[s.x * 800, (1 - s.y) * 600] for s in seen])
        mask = silhouettes.rasterize(pixels, faces, 800)
        subject = np.zeros((800, 800), bool)
        ys, xs = np.mgrid[0:800, 0:800] + 0.5
        u = ((xs - framing[0]) / framing[2] + 0.5) * 160
        v = ((ys - framing[1]) / framing[2] + 0.5) * 160
        inside = (u >= 0) & (v >= 0) & (u < 160) & (v < 160)
        subject[inside] = matte[v[inside].astype(int), u[inside].astype(int)]
        assert silhouettes.overlap(mask, subject) > 0.9, kind


def test_match_from_the_reports_own_camera_stands_upright():
    vertices, faces, _ = asymmetric()
    base = meshes.base_of(vertices, 0.0)
    told = report(elevation=25.0, framing=(256.0, 256.0, 512.0))
    e = math.radians(25.0)
    distance = told.camera.distance
    scene_camera((1.0, 2.0 - distance * math.cos(e), 3.0 + distance * math.sin(e)), (1, 2, 3), resolution=(512, 512))
    bpy.context.scene.camera.data.angle = math.radians(told.camera.fov_deg)
    view = cameras.picture_view(bpy.context.scene, (512, 512))
    match = placement.match_camera(base.local(vertices), faces, base, told, matte_of(vertices, faces, told), view)
    assert match.overlap > 0.97
    expected = Matrix.Translation((1, 2, 3 + base.bottom))
    assert np.abs(np.array(match.matrix) - np.array(expected)).max() < 0.02


def test_variants_stand_side_by_side_at_the_cursor():
    matrices = [placement.at_cursor(Vector((1, 2, 3)), index, 0.8) for index in range(3)]
    assert [round(m.translation.x, 6) for m in matrices] == [1.0, 2.0, 3.0]
    assert all(m.to_3x3() == Matrix.Identity(3) for m in matrices)


def test_what_would_hide_a_result_is_named():
    scene = bpy.context.scene
    for obj in list(bpy.data.objects):
        bpy.data.objects.remove(obj)
    bpy.ops.mesh.primitive_cube_add(size=2.0)  # as in Blender's first scene
    cube = bpy.context.active_object
    assert placement.hiding(scene, Vector(), 1.0) == cube.name
    assert placement.hiding(scene, Vector((1.0, 0.0, 0.0)), 1.0) == "", "it sticks out"
    assert placement.hiding(scene, Vector(), 3.0) == "", "it is larger"
    cube.scale = (5.0, 5.0, 5.0)
    bpy.context.view_layer.update()
    assert placement.hiding(scene, Vector(), 1.0) == "", "a room hides nothing"
    cube.scale = (1.0, 1.0, 1.0)
    bpy.context.view_layer.update()
    cube.hide_set(True)
    assert placement.hiding(scene, Vector(), 1.0) == ""


def test_preview_appears_beside_the_variants_that_stand():
    vertices, faces, colours = asymmetric()
    wish = results.Wish(name="mug", picture="mug.png", size=(64, 64), group="a", cursor=(1.0, 2.0, 3.0))
    arrays = {"vertices": vertices, "faces": faces, "colors": colours}
    assert preview.show(arrays, bpy.context.scene, wish)
    assert preview.shape(bpy.context.scene).matrix_world.translation == Vector((1.0, 2.0, 3.0))
    preview.clear()
    assert preview.shape(bpy.context.scene) is None
    assert results.in_the_way(bpy.context.scene, Vector(wish.cursor), 1.0) == ""
    first = results.add(
        messages.Result(job="a" * 32, index=0, count=2, report=report()), arrays, wish, bpy.context.scene
    )
    assert results.in_the_way(bpy.context.scene, Vector(wish.cursor), 1.0) == first.name
    assert results.in_the_way(bpy.context.scene, Vector(), 1.0) == ""
    preview.show(arrays, bpy.context.scene, wish)
    assert preview.shape(bpy.context.scene).matrix_world.translation.x > 1.0 + np.ptp(vertices[:, 0])
    preview.clear()
