"""How fast arrays cross the wire, beside what bare pyzmq moves, both encrypted with CURVE, in the same run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import zmq

from protocol.directions import BackendMessage
from protocol.framing import decode, encode, split
from protocol.messages import Pong

MEGABYTES = 100
ROUNDS = 7

TARGETS = {"share_of_bare": (">=", 0.8)}


def measure(megabytes: int = MEGABYTES, rounds: int = ROUNDS) -> dict[str, float]:
    """Sends an array of `megabytes` from thread to thread over loopback TCP.

    Returns:
        Megabytes a second of bare pyzmq in one frame, of bare pyzmq in our chunks, left lying in pieces, and of our
        framing, which ends in one array; each the median of `rounds` that take turns. The share that ours has of
        each, and the milliseconds that a message without arrays takes both ways.
    """
    array = np.random.default_rng(0).integers(0, 256, megabytes * 1_000_000, dtype=np.uint8)
    context = zmq.Context()
    public, secret = zmq.curve_keypair()
    server, client = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    server.curve_server, server.curve_publickey, server.curve_secretkey = True, public, secret
    client.curve_serverkey = public
    client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client.connect(f"tcp://127.0.0.1:{port}")

    def send_bare() -> None:
        server.send(memoryview(array.data), copy=False)

    def receive_bare() -> int:
        return np.frombuffer(client.recv(copy=False).buffer, np.uint8).nbytes

    def send_chunks() -> None:
        server.send_multipart(split(memoryview(array.data)), copy=False)

    def receive_chunks() -> int:
        return sum(len(frame) for frame in client.recv_multipart(copy=False))

    def send_framed() -> None:
        server.send_multipart(encode(Pong(), {"array": array}), copy=False)

    def receive_framed() -> int:
        frames = client.recv_multipart(copy=False)
        return decode([frame.buffer for frame in frames], BackendMessage).arrays["array"].nbytes

    try:
        _seconds(send_bare, receive_bare, array.nbytes)  # the handshake and the first pages
        times: dict[str, list[float]] = {"bare": [], "chunked": [], "framed": []}
        for _ in range(rounds):
            times["bare"].append(_seconds(send_bare, receive_bare, array.nbytes))
            times["chunked"].append(_seconds(send_chunks, receive_chunks, array.nbytes))
            times["framed"].append(_seconds(send_framed, receive_framed, array.nbytes))
        trips = [_round_trip(server, client) for _ in range(200)]
    finally:
        context.destroy(linger=0)
    bare, chunked, framed = (megabytes / median(times[name]) for name in ("bare", "chunked", "framed"))
    return {
        "bare_megabytes_per_second": bare,
        "chunked_megabytes_per_second": chunked,
        "framed_megabytes_per_second": framed,
        "share_of_bare": framed / bare,
        "share_of_chunked": framed / chunked,
        "round_trip_milliseconds": median(trips) * 1000,
    }


def _seconds(send: Callable[[], None], receive: Callable[[], int], nbytes: int) -> float:
    start = time.perf_counter()
    sender = threading.Thread(target=send)
    sender.start()
    received = receive()
    seconds = time.perf_counter() - start
    sender.join()
    if received != nbytes:
        raise RuntimeError(f"{received} of {nbytes} bytes arrived")
    return seconds


def _round_trip(server: zmq.Socket, client: zmq.Socket) -> float:
    start = time.perf_counter()
    client.send_multipart(encode(Pong()))
    decode(server.recv_multipart(), BackendMessage)
    server.send_multipart(encode(Pong()))
    decode(client.recv_multipart(), BackendMessage)
    return time.perf_counter() - start
