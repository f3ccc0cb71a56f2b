"""Who may connect: ZeroMQ's authentication (ZAP, RFC 27), answered between two polls of the gateway.

pyzmq's own authenticators need a thread or asyncio; the gateway has neither.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.utils import z85


class Authenticator:
    """Answers ZAP requests of a context. Must be made before a socket is bound.

    Args:
        context: whose sockets ask.
        domains: ZAP domain -> function that says whether a public key (Z85) is let in.

    Attributes:
        socket: to poll for; call `answer` when it is readable.
        refused: peers that were turned away.
    """

    def __init__(self, context: zmq.Context, domains: dict[str, Callable[[str], bool]]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")
        self.refused = 0
        self._domains = domains

    def answer(self) -> None:
        """Answers the requests that wait."""
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            allowed = len(parts) == 7 and parts[5] == b"CURVE" and len(parts[6]) == 32 and self._allows(*parts[2::4])
            self.refused += not allowed
            status = [b"200", b"OK"] if allowed else [b"400", b"unknown key"]
            self.socket.send_multipart([b"1.0", parts[1] if len(parts) > 1 else b"", *status, b"", b""])

    def _allows(self, domain: bytes, key: bytes) -> bool:
        check = self._domains.get(domain.decode("ascii", "replace"))
        return check is not None and check(z85.encode(key).decode())

    def close(self) -> None:
        """Stops answering; with that nobody new is let in."""
        self.socket.close()


def protect(socket: zmq.Socket, domain: str, public: str, secret: str) -> None:
    """Makes a socket a CURVE server that lets nobody in unless `domain`'s check says so."""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = public.encode(), secret.encode()
    socket.zap_domain = domain.encode()
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an authenticator: nobody, rather than everybody
