"""A backend's start, its end, and what it survives: restarts, strangers, garbage, other versions, foreign programs."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest
import zmq
from server_fixture import Backend, until

from backend.server.journal import Journal
from protocol import connection
from protocol.client import Client
from protocol.connection import Address
from protocol.errors import TurnaroundError
from protocol.framing import MAX_FRAME, encode
from protocol.messages import Cancelled, Event, Failed, Hello, Ping, Pong, Result, Settings, Submit
from protocol.security import KeyPair, client_key_path, server_keys

PICTURE = np.full((16, 16, 4), 200, np.uint8)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
LONG = Settings(options={"steps": 1000, "delay": 0.05})


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path))
    backend = Backend(tmp_path)
    yield backend
    if backend.process is not None and backend.process.poll() is None:
        backend.process.kill()
        backend.process.communicate()


def new_keys():
    return KeyPair(*(key.decode() for key in zmq.curve_keypair()))


def memory(pid):
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


def problem(address, timeout=8.0):
    with Client(address) as client, pytest.raises(TurnaroundError) as caught:
        client.connect(timeout)
    return caught.value


def started(client, request):
    job = client.followed[request]
    until(lambda: client.wait(0.1) is not None and job.job is not None and job.last_seen >= 4)
    return job.job


def test_killed_in_the_middle_it_runs_the_job_again_and_keeps_results(backend):
    backend.start()
    with backend.client() as client:
        client.connect()
        done = client.submit("fake", Settings(), PICTURE)
        assert isinstance(list(client.follow(done))[-1].message, Result)
        request = client.submit("fake", Settings(options={"steps": 60, "delay": 0.02}), PICTURE)
        started(client, request)
        backend.kill()
        until(lambda: client.poll() is not None and not client.ready)
        assert client.problem is not None
        backend.start()  # on another port
        received = []
        until(lambda: received.extend(client.wait(0.1)) or client.followed[request].ended)
        assert client.ready
        assert client.followed[request].results == {0}
        numbers = [m.number for m, _ in received if isinstance(m, Event)]
        assert numbers == sorted(set(numbers))
        assert "Starting Again" in [m.stage for m, _ in received if isinstance(m, Event)]
        again = client.attach(client.followed[done].job)
        assert isinstance(list(client.follow(again))[-1].message, Result)
    backend.stop()


@linux
def test_sigterm_ends_all_and_a_second_backend_is_refused(backend):
    backend.start()
    assert connection.find().pid == backend.process.pid
    second = backend.start(wait=False)
    assert "backend.running" in second.communicate(timeout=20)[1]
    assert connection.find().pid == backend.process.pid
    with backend.client() as client:
        client.connect()
        request = client.submit("fake", LONG, PICTURE)
        started(client, request)
        workers = children(backend.process.pid)
        assert workers
        log = backend.stop()
        assert backend.process.returncode == 0, log
        assert "SIGTERM" in log
        until(lambda: client.poll() is not None and client.followed[request].ended)  # cancelled, and told so
    assert connection.find() is None
    assert not connection.path().exists()
    assert not any(connection.alive(pid) for pid in workers)


def test_a_journal_forgets_the_oldest_first(tmp_path):
    journal = Journal(tmp_path, max_bytes=3 * PICTURE.nbytes)
    for number in range(5):
        message = Submit(request=f"r{number}", pipeline="fake", settings=Settings())
        journal.add(f"j{number}", message, {"picture": PICTURE})
        journal.set_state(f"j{number}", "queued" if number == 0 else "done")
    journal.prune()
    assert [summary.job for summary in journal.summaries()] == ["j4", "j3", "j2", "j0"]  # what waits is never forgotten
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"j4", "j3", "j2", "j0"}
    np.testing.assert_array_equal(journal.pictures(journal.get("j4"))["picture"], PICTURE)
    journal.close()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return [int(child) for child in file.read().split()]


def test_it_ends_with_its_parent_and_on_request(backend):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = backend.start(json.dumps({"parent_pid": parent.pid}))
    parent.communicate(b"\n")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "launched" in log
    process = backend.start()
    with backend.client() as client:
        client.connect()
        client.shutdown()
        until(lambda: client.poll() is not None and not client.ready)
    assert process.wait(timeout=20) == 0


@linux
def test_workers_end_when_the_gateway_is_killed(backend):
    backend.start()
    with backend.client() as client:
        client.connect()
        request = client.submit("fake", Settings(options={"steps": 1000, "delay": 0.05, "mode": "deaf"}), PICTURE)
        until(lambda: client.wait(0.1) is not None and client.followed[request].last_seen >= 2)
    workers = children(backend.process.pid)
    backend.kill()
    until(lambda: not any(connection.alive(pid) for pid in workers))


def test_a_job_that_does_not_listen_loses_its_worker(backend):
    backend.start(json.dumps({"cancel_seconds": 0.3}))
    with backend.client() as client:
        client.connect()
        deaf = client.submit("fake", Settings(options={"steps": 1000, "delay": 0.05, "mode": "deaf"}), PICTURE)
        until(lambda: client.wait(0.1) is not None and client.followed[deaf].last_seen >= 3)
        client.cancel(deaf)
        assert isinstance(list(client.follow(deaf))[-1].message, Cancelled)
        assert isinstance(list(client.follow(client.submit("fake", Settings(), PICTURE)))[-1].message, Result)
    backend.stop()


@linux
def test_strangers_and_garbage_cost_nothing(backend):
    backend.start()
    found = connection.find()
    before = memory(found.pid)
    chance = random.Random(0)
    for length in (1, 9, 64, 1000, 300_000):
        with socket.create_connection((found.host, found.port)) as stranger:
            stranger.settimeout(0.3)
            try:
                stranger.sendall(chance.randbytes(length))
                stranger.sendall(b"\xff" + b"\x00" * 8 + b"\x7f" + chance.randbytes(length))
                stranger.recv(64)
            except OSError:
                pass
    # a CURVE client without an allowed key, with a frame larger than any
    context = zmq.Context()
    unknown = context.socket(zmq.DEALER)
    keys = new_keys()
    unknown.curve_serverkey = found.server_key.encode()
    unknown.curve_publickey, unknown.curve_secretkey = keys.public.encode(), keys.secret.encode()
    unknown.connect(f"tcp://{found.host}:{found.port}")
    unknown.send_multipart([*encode(Hello(protocol=1)), bytes(64 << 20)])
    assert unknown.poll(500) == 0  # no answer
    context.destroy(linger=0)
    # no keys at all
    context = zmq.Context()
    bare = context.socket(zmq.DEALER)
    bare.connect(f"tcp://{found.host}:{found.port}")
    bare.send(b"hello")
    assert bare.poll(300) == 0
    context.destroy(linger=0)
    with backend.client() as client:
        client.connect()
        # a known client that sends nonsense: dropped; the next real message is answered
        for _ in range(200):
            client._socket.send_multipart([chance.randbytes(chance.randrange(200)) for _ in range(3)])
        client._socket.send(
            msgspec.msgpack.encode({"type": "submit", "request": "r", "pipeline": "fake", "settings": 3})
        )
        client.ping()
        received = []
        until(lambda: received.extend(m for m, _ in client.wait(0.1)) or any(isinstance(m, Pong) for m in received))
        assert next(m for m in received if isinstance(m, Failed)).request == "r"
        client._socket.send(bytes(MAX_FRAME * 2))  # too large a frame ends its connection, not the backend
        until(lambda: client.poll() is not None and not client.ready)
        client.connect()
        assert isinstance(list(client.follow(client.submit("fake", Settings(), PICTURE)))[-1].message, Result)
    assert memory(found.pid) < before + (64 << 20)
    assert "dropped" in backend.stop()


def test_another_version_is_told_so(backend, monkeypatch):
    backend.start()
    monkeypatch.setattr("protocol.client.PROTOCOL_VERSION", 99)
    error = problem(connection.local_address)
    assert error.code == "protocol.version"
    assert "99" in error.sentence
    monkeypatch.undo()
    monkeypatch.setenv("TURNAROUND_HOME", str(backend.home))
    found = connection.find()
    msgspec.structs.replace(found, protocol=0, version="0.0.1").write()
    assert "0.0.1" in problem(connection.local_address).sentence
    backend.stop()


def test_wrong_keys_are_told_apart(backend):
    backend.start()
    right = connection.local_address()
    assert problem(Address(right.host, right.port, right.server_key, new_keys())).code == "keys.client"
    assert problem(Address(right.host, right.port, new_keys().public, right.keys)).code == "keys.server"
    remote = connection.parse(connection.remote_address(right.host, right.port, right.server_key).string())
    with Client(remote) as client:
        assert client.connect().pipelines[0].name == "fake"
    client_key_path("remote").unlink()  # takes back what was handed out
    assert problem(remote).code == "keys.client"
    backend.stop()


@pytest.mark.parametrize(
    ("says", "answers", "word"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"", "SSH"),
        (b"", b"HTTP/1.0 200 OK\r\nServer: demo\r\n\r\n", "web server"),
        (b"", b"", "says nothing"),
        (b"220 mail.example ESMTP\r\n", b"", "220 mail.example"),
    ],
)
def test_a_foreign_program_on_the_port_is_named(tmp_path, monkeypatch, says, answers, word):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connected,), daemon=True).start()

    def talk(connected):
        with connected:
            connected.sendall(says)
            connected.settimeout(5)
            try:
                while data := connected.recv(1000):
                    if data.startswith(b"GET") and answers:
                        connected.sendall(answers)
                        return
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    error = problem(Address("127.0.0.1", port, server_keys().public, new_keys()), timeout=20.0)
    listener.close()
    assert error.code == "port.foreign"
    assert word in error.sentence


def test_nothing_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path))
    assert problem(connection.local_address, timeout=0.3).code == "backend.none"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = Address("127.0.0.1", port, server_keys().public, new_keys())
    assert problem(address, timeout=0.5).code == "backend.unreachable"


def test_a_port_that_is_taken_is_told(backend):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = backend.start(json.dumps({"port": taken.getsockname()[1]}), wait=False)
        assert "port.taken" in process.communicate(timeout=20)[1]
    assert process.returncode != 0


@linux
def test_a_full_disk_fails_the_job_and_not_the_backend(backend):
    import resource

    backend.start()
    with backend.client() as client:
        client.connect()
        limit = resource.prlimit(backend.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(backend.process.pid, resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
        large = Settings(variants=2, options={"vertices": 1_000_000})
        with pytest.raises(TurnaroundError) as caught:
            list(client.follow(client.submit("fake", large, PICTURE)))
        assert caught.value.code == "disk.write"
        with pytest.raises(TurnaroundError) as caught:
            list(client.follow(client.submit("fake", Settings(), np.zeros((1000, 1000, 4), np.uint8))))
        assert caught.value.code == "disk.write"
        assert isinstance(list(client.follow(client.submit("fake", Settings(), PICTURE)))[-1].message, Result)
    backend.stop()


def test_a_broken_journal_is_set_aside(backend):
    (backend.home / "jobs").mkdir()
    (backend.home / "jobs" / "journal.sqlite").write_bytes(b"this was a database" * 1000)
    backend.start()
    with backend.client() as client:
        client.connect()
        assert isinstance(list(client.follow(client.submit("fake", Settings(), PICTURE)))[-1].message, Result)
    backend.stop()
    assert list((backend.home / "jobs").glob("broken-*"))


def test_a_stopped_backend_does_not_hold_a_polling_client(backend):
    backend.start()
    with backend.client() as client:
        client.connect()
        os.kill(backend.process.pid, signal.SIGSTOP)
        try:
            client.ping()
            assert not any(isinstance(message, Pong) for message, _ in client.poll())
        finally:
            os.kill(backend.process.pid, signal.SIGCONT)
        received = []
        until(lambda: received.extend(m for m, _ in client.wait(0.1)) or any(isinstance(m, Pong) for m in received))
    client.send(Ping())  # closed: neither an error nor a wait
    assert client.poll() == []
    backend.stop()
