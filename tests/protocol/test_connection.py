"""Keys are private, a connection file is only believed while its process lives, a connection string is exact."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from protocol import connection, security
from protocol.connection import Address, ConnectionFile
from protocol.errors import TurnaroundError
from protocol.security import KeyPair

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def pair():
    return KeyPair(*(key.decode() for key in zmq.curve_keypair()))


def write(**changes):
    values = {
        "host": "127.0.0.1",
        "port": 5000,
        "server_key": security.server_keys().public,
        "client_key_file": connection.default_client_key_file(),
        "pid": os.getpid(),
        "protocol": connection.PROTOCOL_VERSION,
        "version": "1.0",
    }
    return ConnectionFile(**(values | changes)).write()


@posix
def test_keys_are_made_once_and_for_the_user_alone(home):
    with ThreadPoolExecutor(8) as pool:  # several programs that come first at once
        pairs = list(pool.map(lambda _: security.client_keys(), range(8)))
    assert len({p.secret for p in pairs}) == 1
    security.server_keys()
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not list(home.rglob(".*"))
    assert pairs[0].secret not in repr(pairs[0])


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(mode):
    security.client_keys()
    security.client_key_path().chmod(mode)
    with pytest.raises(TurnaroundError) as caught:
        security.client_keys()
    assert caught.value.code == "keys.readable"
    assert security.allowed_clients() == set()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"public": "a", "secret": "b"}'])
def test_a_broken_key_is_told_and_lets_nobody_in(content):
    allowed = security.client_keys("remote").public
    security.client_keys("local")
    security.client_key_path("local").write_bytes(content)
    with pytest.raises(TurnaroundError) as caught:
        security.client_keys("local")
    assert caught.value.code == "keys.broken"
    assert security.allowed_clients() == {allowed}


@given(
    st.sampled_from(["127.0.0.1", "render-box", "gpu.example.org", "fe80::1"]),
    st.integers(1, 65_535),
    st.just(None).map(lambda _: (pair(), pair())),
)
def test_a_connection_string_says_all_and_no_more(host, port, keys):
    address = Address(host, port, keys[0].public, keys[1])
    text = address.string()
    assert connection.parse(f"  {text}\n") == address
    assert text.isascii()
    assert " " not in text


@given(st.one_of(st.text(max_size=200), st.text(max_size=60).map(lambda tail: f"turnaround://host:1/?server={tail}")))
def test_anything_else_is_no_connection_string(text):
    with pytest.raises(TurnaroundError) as caught:
        connection.parse(text)
    assert caught.value.code == "connection.string"


def test_a_damaged_string_does_not_give_its_secret_away():
    text = Address("host", 5000, pair().public, pair()).string()
    with pytest.raises(TurnaroundError) as caught:
        connection.parse(text[:-3])
    secret = text.rpartition("=")[2][:8]
    assert secret not in str(caught.value) + caught.value.details


def test_the_connection_file_leads_to_the_backend():
    write(host="0.0.0.0")
    address = connection.local_address()
    assert address.endpoint == "tcp://127.0.0.1:5000"
    assert address.keys.public in security.allowed_clients()
    connection.remove(os.getpid() + 1)
    assert connection.find() is not None
    connection.remove(os.getpid())
    assert connection.find() is None


def test_a_stale_or_torn_connection_file_is_none(home):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = write(pid=gone.pid)
    assert connection.find() is None
    for content in (b"", b'{"host": "127.0.0.1"', b"[]", b'{"pid": -1}', b"\xff"):
        path.write_bytes(content)
        assert connection.find() is None
    with pytest.raises(TurnaroundError) as caught:
        connection.local_address()
    assert caught.value.code == "backend.none"


def test_a_backend_of_another_version_is_told_before_connecting():
    write(protocol=connection.PROTOCOL_VERSION + 1, version="9.9")
    with pytest.raises(TurnaroundError) as caught:
        connection.local_address()
    assert caught.value.code == "protocol.version"
    assert "9.9" in caught.value.sentence
