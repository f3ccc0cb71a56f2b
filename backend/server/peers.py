"""The clients at the gateway's door, and what waits to be sent to each; bounded, and patient with slow ones."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from protocol.framing import Buffer

Frames = list[Buffer]
MAX_PEERS = 256
MAX_WAITING = 4096
PREVIEWS_WAITING = 16


@dataclass
class Peer:
    """One connection.

    Attributes:
        greeted: it said `Hello` in our version.
        waiting: frames to send, or a function that fetches them when their turn comes, so that a result waits on disk.
        follows: jobs whose events it gets.
        watches: it has asked for the models, and is told what becomes of them.
    """

    identity: bytes
    greeted: bool = False
    waiting: deque[Frames | Callable[[], Frames | None]] = field(default_factory=deque)
    follows: set[str] = field(default_factory=set)
    watches: bool = False


class Peers:
    """All connections of a ROUTER socket."""

    def __init__(self, socket: zmq.Socket) -> None:
        self._socket = socket
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, identity: bytes) -> Peer:
        """The peer; a new one may cost the one that has been silent for longest."""
        peer = self._peers.setdefault(identity, Peer(identity))
        self._peers.move_to_end(identity)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return peer

    def following(self, job: str) -> list[Peer]:
        """Those who follow a job."""
        return [peer for peer in self._peers.values() if job in peer.follows]

    def greeted(self) -> list[Peer]:
        """Those who have been let in and have said hello."""
        return [peer for peer in self._peers.values() if peer.greeted]

    def watching(self) -> list[Peer]:
        """Those who want to know what becomes of the models."""
        return [peer for peer in self._peers.values() if peer.watches]

    def send(self, peer: Peer, frames: Frames | Callable[[], Frames | None], *, bare: Frames | None = None) -> None:
        """Sends, now or when the peer has room. One that falls behind gets `bare` where there is one, or is let go."""
        if bare is not None and len(peer.waiting) >= PREVIEWS_WAITING:
            frames = bare
        if len(peer.waiting) >= MAX_WAITING:
            self._peers.pop(peer.identity, None)
            return
        peer.waiting.append(frames)
        self._flush(peer)

    def flush(self) -> bool:
        """Sends what has been waiting; True if something still waits."""
        for peer in list(self._peers.values()):
            self._flush(peer)
        return any(peer.waiting for peer in self._peers.values())

    def _flush(self, peer: Peer) -> None:
        while peer.waiting:
            item = peer.waiting[0]
            frames = item() if callable(item) else item
            if frames is not None:
                peer.waiting[0] = frames
                try:
                    self._socket.send_multipart([peer.identity, *frames], zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    return
                except zmq.ZMQError:  # it has gone
                    self._peers.pop(peer.identity, None)
                    return
            peer.waiting.popleft()
