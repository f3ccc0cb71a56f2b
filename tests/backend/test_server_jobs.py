"""Jobs through a real gateway and a real worker process: from Submit to Result, and all that may come between."""

import os
import signal

import numpy as np
import pytest
from server_fixture import clean_backend, until

from protocol.errors import TurnaroundError
from protocol.messages import (
    MAX_NOTE,
    MAX_NOTES,
    Accepted,
    Cancelled,
    Event,
    Failed,
    Framing,
    FreeMemory,
    JobList,
    Pong,
    Result,
    Settings,
    Submit,
)

PICTURE = np.arange(16 * 16 * 4, dtype=np.uint8).reshape(16, 16, 4)
PICTURE[0, 0] = 9, 8, 7, 255


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    with clean_backend(tmp_path_factory.mktemp("home")) as backend:
        yield backend


@pytest.fixture
def client(backend):
    with backend.client() as client:
        client.connect()
        yield client


def settings(variants=1, seed=0, **options):
    return Settings(variants=variants, seed=seed, options=options)


def gather(client, request):
    return [message for message, _ in client.follow(request)]


def fails(client, *arguments, **named):
    with pytest.raises(TurnaroundError) as caught:
        gather(client, client.submit(*arguments, **named))
    return caught.value


def first_step(client, request, stage="Drawing Views"):
    """Waits until the job is in a stage; returns all that came."""
    seen = []

    def arrived():
        seen.extend(client.wait(0.1))
        return any(isinstance(m, Event) and m.stage == stage and m.step > 0 for m, _ in seen)

    until(arrived)
    return seen


def test_a_job_from_submit_to_results(client):
    request = client.submit("fake", settings(variants=2, seed=5, vertices=1_000_000), PICTURE, label="Lamp")
    received = list(client.follow(request))
    messages = [message for message, _ in received]
    assert isinstance(messages[0], Accepted)
    numbers = [m.number for m in messages if isinstance(m, Event)]
    assert numbers == list(range(1, len(numbers) + 1))
    fractions = [m.fraction for m in messages if isinstance(m, Event) and m.variant == 0]
    assert fractions == sorted(fractions)
    results = [(m, a) for m, a in received if isinstance(m, Result)]
    assert [(m.index, m.count, m.report.seed) for m, _ in results] == [(0, 2, 5), (1, 2, 6)]
    for message, arrays in results:
        expected = np.random.default_rng(message.report.seed).random((1_000_000, 3), np.float32)
        expected[0] = 9, 8, 7
        np.testing.assert_array_equal(arrays["vertices"], expected)
        np.testing.assert_array_equal(arrays["cutout"], PICTURE[:8, :8])
        assert len(message.view_cameras) == len(arrays["views"])
    message, arrays = next((m, a) for m, a in received if isinstance(m, Event) and a)
    np.testing.assert_array_equal(arrays["cutout"], PICTURE[:8, :8])
    assert message.framing == Framing(center_x=4.0, center_y=4.0, side=8.0)
    assert message.notes[0] == "It is dark."  # with the cutout, before the work; no more than a message may hold
    assert [len(note) for note in message.notes[1:]] == [MAX_NOTE] * (MAX_NOTES - 1)
    assert [m.variant for m in messages if isinstance(m, Event) and m.notes] == [0, 1]


def test_the_same_request_twice_is_one_job(client, backend):
    request = client.submit("fake", settings(), PICTURE)
    first = gather(client, request)
    with backend.client() as other:
        other.connect()
        other._send(Submit(request=request, pipeline="fake", settings=settings()), {"picture": PICTURE})
        again = []
        until(lambda: again.extend(m for m, _ in other.wait(0.1)) or any(isinstance(m, Result) for m in again))
    assert {m.job for m in again if isinstance(m, (Accepted, Result))} == {first[0].job}
    client.jobs()
    jobs = next(m for m in iter(lambda: client.wait(5.0)[0].message, None) if isinstance(m, JobList))
    assert sum(summary.job == first[0].job for summary in jobs.jobs) == 1


def test_the_picture_of_an_earlier_job_is_used_again(client):
    job = gather(client, client.submit("fake", settings(), PICTURE))[0].job
    request = client.submit("fake", settings(seed=3), picture_of=job)
    (arrays,) = [a for m, a in client.follow(request) if isinstance(m, Result)]
    assert arrays["vertices"][0].tolist() == [9, 8, 7]
    assert fails(client, "fake", settings(), picture_of="nobody").code == "job.unknown"


def test_cancel_stops_within_a_step_and_the_queue_goes_on(client):
    long = client.submit("fake", settings(steps=1000, delay=0.05), PICTURE)
    waiting = client.submit("fake", settings(steps=1000, delay=0.05), PICTURE)
    after = client.submit("fake", settings(), PICTURE)
    seen = first_step(client, long)
    until(lambda: seen.extend(client.wait(0.05)) or client.followed[after].job)
    client.cancel(waiting)
    client.cancel(long)
    until(lambda: seen.extend(client.wait(0.1)) or client.followed[after].ended)
    cancelled = {m.job for m, _ in seen if isinstance(m, Cancelled)}
    assert cancelled == {client.followed[long].job, client.followed[waiting].job}
    steps = [m.step for m, _ in seen if isinstance(m, Event) and m.job == client.followed[long].job]
    assert max(steps) < 100
    positions = [m.queue_position for m, _ in seen if isinstance(m, Event) and m.job == client.followed[after].job]
    assert positions[0] == 2
    assert positions[-1] == 0
    assert client.followed[after].results == {0}


def test_keep_builds_from_what_there_is_and_draws_no_more(client):
    request = client.submit("fake", settings(variants=3, steps=1000, delay=0.02), PICTURE)
    first_step(client, request)
    client.keep(request)
    (result,) = [m for m in gather(client, request) if isinstance(m, Result)]
    assert (result.index, result.count) == (0, 1)
    assert int(result.report.warnings[1].split()[1]) < 1000


def test_a_job_whose_worker_dies_is_run_once_more(client):
    messages = gather(client, client.submit("fake", settings(mode="crash_once"), PICTURE))
    assert "Starting Again" in [m.stage for m in messages if isinstance(m, Event)]
    numbers = [m.number for m in messages if isinstance(m, Event)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert isinstance(messages[-1], Result)


def test_a_job_that_always_kills_its_worker_fails_and_the_next_works(client):
    error = fails(client, "fake", settings(mode="crash"), PICTURE)
    assert error.code == "worker.crashed"
    assert str(-signal.SIGKILL) in error.details
    assert isinstance(gather(client, client.submit("fake", settings(), PICTURE))[-1], Result)


def test_a_worker_killed_when_idle_is_started_again(client):
    result = gather(client, client.submit("fake", settings(), PICTURE))[-1]
    pid = int(result.report.warnings[0].split()[1])
    os.kill(pid, signal.SIGKILL)
    again = gather(client, client.submit("fake", settings(), PICTURE))[-1]
    assert int(again.report.warnings[0].split()[1]) != pid


@pytest.mark.parametrize(
    ("mode", "code"), [("oom", "memory.out"), ("error", "pipeline.failed"), ("refuse", "picture.empty")]
)
def test_errors_of_a_pipeline_reach_the_artist_in_words(client, mode, code):
    error = fails(client, "fake", settings(mode=mode), PICTURE)
    assert error.code == code
    assert "Traceback" not in error.sentence + error.hint
    assert error.hint
    assert isinstance(gather(client, client.submit("fake", settings(), PICTURE))[-1], Result)


def test_what_cannot_be_done_is_refused_with_the_field(client):
    bad = {
        "elevation_deg": Settings(elevation_deg=95.0),
        "variants": Settings(variants=0),
        "resolution": Settings(resolution=5000),
        "options.steps": settings(steps=0),
        "options.mode": settings(mode="dance"),
        "options.delay": settings(delay="long"),
        "options.colour": settings(colour=1),
    }
    for field, wrong in bad.items():
        error = fails(client, "fake", wrong, PICTURE)
        assert error.field == field
        assert error.hint
    assert fails(client, "unheard", settings(), PICTURE).code == "pipeline.unknown"
    for picture, code in [
        (None, "picture.missing"),
        (PICTURE[:1, :1], "picture.small"),
        (PICTURE[..., :3], "picture.form"),
        (PICTURE.astype(np.float32), "picture.form"),
        (np.zeros((2, 20_000, 4), np.uint8), "picture.large"),
    ]:
        error = fails(client, "fake", settings(), picture)
        assert (error.code, error.field) == (code, "picture")
    assert fails(client, "fake", settings(), PICTURE, matte=PICTURE[:3, :3, 0]).field == "matte"


def test_a_client_that_comes_back_gets_what_it_missed(client, backend):
    with backend.client() as earlier:
        earlier.connect()
        request = earlier.submit("fake", settings(steps=30, delay=0.02), PICTURE)
        seen = first_step(earlier, request)
        job = earlier.followed[request].job
    last = max(m.number for m, _ in seen if isinstance(m, Event))
    messages = gather(client, client.attach(job, last_seen=last))
    numbers = [m.number for m in messages if isinstance(m, Event)]
    assert numbers == list(range(last + 1, last + 1 + len(numbers)))
    assert isinstance(messages[-1], Result)
    assert [m.index for m in gather(client, client.attach(job, last_seen=10_000))] == [0]  # its result stays
    with pytest.raises(TurnaroundError) as caught:
        gather(client, client.attach("nobody"))
    assert caught.value.code == "job.unknown"


def test_who_attaches_in_the_middle_sees_the_preview(client, backend):
    request = client.submit("fake", settings(steps=1000, delay=0.05), PICTURE)
    first_step(client, request)
    with backend.client() as other:
        other.connect()
        other.attach(client.followed[request].job)
        seen = []
        until(lambda: seen.extend(other.wait(0.1)) or any("cutout" in arrays for _, arrays in seen))
        assert next(m for m, arrays in seen if "cutout" in arrays).notes[0] == "It is dark."
        other.cancel(client.followed[request].job)
        until(lambda: seen.extend(other.wait(0.1)) or isinstance(seen[-1].message, Cancelled))
    numbers = [m.number for m, _ in seen if isinstance(m, Event)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_remaining_time_is_learned(client):
    for _ in range(2):
        messages = gather(client, client.submit("fake", settings(variants=2, steps=10, delay=0.04), PICTURE))
    told = [m.remaining_seconds for m in messages if isinstance(m, Event) and m.stage == "Drawing Views"]
    assert told[0] is not None
    assert told[0] > told[-1] >= 0.0


def test_memory_is_freed_on_request_and_status_is_told(client):
    client.send(FreeMemory())
    pong = next(m for m in iter(lambda: client.wait(5.0)[0].message, None) if isinstance(m, Pong))
    assert pong.devices[0].kind == "cpu"
    assert (pong.running, pong.queued) == (0, 0)


def test_nothing_failed_silently(client):
    """A job's own failure names the job, so that a list of many can show it."""
    request = client.submit("fake", settings(mode="error"), PICTURE)
    seen = []
    until(lambda: seen.extend(m for m, _ in client.wait(0.1)) or client.followed[request].ended)
    assert isinstance(seen[-1], Failed)
    assert seen[-1].job == client.followed[request].job
