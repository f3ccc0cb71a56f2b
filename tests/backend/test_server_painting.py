"""Pictures from text through a real gateway and a real worker process."""

import uuid

import numpy as np
import pytest
import tiny_stable_diffusion
from server_fixture import Backend, clean_backend, until

from protocol.errors import TurnaroundError
from protocol.messages import SINGLE_OBJECT, Accepted, Cancelled, Event, Imagine, Imagined, JobList, Result, Settings


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    with clean_backend(tmp_path_factory.mktemp("home")) as backend:
        yield backend


@pytest.fixture
def client(backend):
    with backend.client() as client:
        client.connect()
        yield client


def imagine(client, prompt="a mug", **wanted):
    return client.imagine(Imagine(request=uuid.uuid4().hex, prompt=prompt, **wanted))


def painted(client, request):
    """The job's id, its picture and its report."""
    ((message, arrays),) = [(m, a) for m, a in client.follow(request) if isinstance(m, Imagined)]
    return message.job, arrays["picture"], message.report


def fails(client, prompt="a mug", **wanted):
    with pytest.raises(TurnaroundError) as caught:
        list(client.follow(imagine(client, prompt, **wanted)))
    return caught.value


def test_a_picture_from_prompt_to_pixels(client):
    assert [(info.name, info.ready) for info in client.welcome.painters] == [("dry", False), ("brush", True)]
    request = imagine(client, "a mug", seed=7, negative_prompt="red")
    received = list(client.follow(request))
    assert isinstance(received[0].message, Accepted)
    events = [m for m, _ in received if isinstance(m, Event)]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.fraction for event in events] == sorted(event.fraction for event in events)
    message, arrays = received[-1]
    np.testing.assert_array_equal(
        arrays["picture"], np.broadcast_to([len(f"a mug, {SINGLE_OBJECT}"), 7, 255, 255], (12, 16, 4))
    )
    report = message.report
    assert (report.prompt, report.negative_prompt, report.seed) == ("a mug", "red", 7)
    assert (report.painter, report.licence) == ("brush", "CC0-1.0")
    client.jobs()
    jobs = next(m for m in iter(lambda: client.wait(5.0)[0].message, None) if isinstance(m, JobList)).jobs
    (summary,) = [summary for summary in jobs if summary.job == message.job]
    assert (summary.state, summary.label, summary.pipeline, summary.variants_done) == ("done", "a mug", "brush", 1)


def test_a_mesh_is_made_from_a_picture_that_the_backend_drew(client):
    job, picture, _ = painted(client, imagine(client, "a mug", seed=9))
    request = client.submit("fake", Settings(), picture_of=job)
    (arrays,) = [a for m, a in client.follow(request) if isinstance(m, Result)]
    np.testing.assert_array_equal(arrays["vertices"][0], picture[0, 0, :3])
    np.testing.assert_array_equal(arrays["cutout"], picture[:8, :8])


def test_what_cannot_be_painted_is_said(client):
    cases = (
        ({"prompt": " \t"}, "prompt.empty", "prompt"),
        ({"prompt": "a" * 1001}, "settings.invalid", "prompt"),
        ({"painter": "nobody"}, "painter.unknown", "painter"),
        ({"painter": "dry"}, "painter.missing", "painter"),
        ({"steps": 0}, "settings.invalid", "steps"),
        ({"prompt": "refuse"}, "picture.empty", "picture"),
        ({"prompt": "error"}, "pipeline.failed", ""),
        ({"prompt": "oom"}, "memory.out", ""),
    )
    for wanted, code, field in cases:
        error = fails(client, **wanted)
        assert (error.code, error.field) == (code, field), error.details
    assert "1000" in fails(client, prompt="a" * 1001).hint
    assert "models install dry" in fails(client, painter="dry").hint


def test_cancel_stops_the_painter_and_its_picture_is_no_source(client):
    request = imagine(client, "slow", steps=200)
    seen = []
    until(lambda: seen.extend(client.wait(0.1)) or any(isinstance(m, Event) and m.step > 0 for m, _ in seen))
    client.cancel(request)
    seen += client.follow(request)
    assert isinstance(seen[-1].message, Cancelled)
    assert max(m.step for m, _ in seen if isinstance(m, Event)) < 100
    with pytest.raises(TurnaroundError) as caught:
        list(client.follow(client.submit("fake", Settings(), picture_of=seen[-1].message.job)))
    assert caught.value.code == "job.forgotten"
    assert painted(client, imagine(client, "a mug"))[1].any()


def test_a_painter_that_dies_is_started_once_more(client):
    received = list(client.follow(imagine(client, "crash_once")))
    assert "Starting Again" in [m.stage for m, _ in received if isinstance(m, Event)]
    assert isinstance(received[-1].message, Imagined)
    assert fails(client, "crash").code == "worker.crashed"


def test_what_needs_the_memory_that_others_hold_is_tried_again_without_them(client):
    assert fails(client, "crash").code == "worker.crashed"  # so that the next worker has freed nothing yet
    assert not painted(client, imagine(client))[2].warnings
    assert painted(client, imagine(client, "oom_once"))[2].warnings == ("freed before",)


def test_the_same_request_is_one_job_and_its_picture_can_be_fetched_later(client, backend):
    request = imagine(client, "a mug", seed=3)
    job, picture, report = painted(client, request)
    with backend.client() as other:
        other.connect()
        other._send(Imagine(request=request, prompt="a mug", seed=3))
        again = []
        until(lambda: again.extend(other.wait(0.1)) or any(isinstance(m, Imagined) for m, _ in again))
        assert {m.job for m, _ in again if isinstance(m, (Accepted, Imagined))} == {job}
    with backend.client() as third:
        third.connect()
        fetched = painted(third, third.attach(job))
        np.testing.assert_array_equal(fetched[1], picture)
        assert fetched[::2] == (job, report)


def test_pictures_and_what_waits_survive_a_backend_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path))
    backend = Backend(tmp_path)
    backend.start()
    with backend.client() as client:
        client.connect()
        job, picture, _ = painted(client, imagine(client, "a mug"))
        running, waiting = imagine(client, "slow", steps=100), imagine(client, "a jug", seed=5)
        until(lambda: client.wait(0.1) and client.followed[waiting].job and client.followed[running].last_seen > 4)
        backend.kill()
        backend.start()
        assert painted(client, waiting)[2].seed == 5
        assert client.followed[running].ended, "it was run once more, first of all"
        np.testing.assert_array_equal(painted(client, client.attach(job))[1], picture)
    backend.stop()


def test_a_checkpoint_that_is_installed_while_the_backend_runs_paints_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    backend = Backend(tmp_path / "home")
    backend.start('{"painters": ""}')
    with backend.client() as client:
        client.connect()
        assert not any(info.ready for info in client.welcome.painters)
        assert fails(client).code == "painter.missing"
        folder = tiny_stable_diffusion.save(tmp_path / "made")
        (tmp_path / "weights").mkdir()
        folder.rename(tmp_path / "weights" / "tiny-letters")
        until(lambda: client.wait(0.1) and any(info.ready for info in client.welcome.painters))
        _, picture, report = painted(client, imagine(client, "a mug", steps=4))
        assert picture.shape == (tiny_stable_diffusion.SIDE, tiny_stable_diffusion.SIDE, 4)
        assert picture[..., :3].std() > 5.0
        assert (report.painter, report.steps, report.device) == ("tiny-letters", 4, "cpu")
    backend.stop()
