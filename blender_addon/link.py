"""How the backend is reached: this computer's, started when it is needed, or another computer's."""

from __future__ import annotations

import time
from enum import Enum

import bpy

from .process import BackendProcess
from .protocol import connection
from .protocol.client import WAITING, Client
from .protocol.errors import TurnaroundError
from .protocol.messages import DeviceInfo, Pong, Welcome
from .settings import find_command, own_folder, preferences

START_SECONDS = 120.0
"""A backend that has said nothing by then will not; a cold disk makes importing torch slow."""
STOP_SECONDS = 10.0
COMMAND_SECONDS = 3.0
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class State(Enum):
    """How things stand with the backend."""

    OFF = "Not Running"
    STARTING = "Starting"
    CONNECTING = "Connecting"
    READY = "Running"
    STOPPING = "Stopping"

    @property
    def icon(self) -> str:
        """Blender's icon for it."""
        return {State.READY: "CHECKMARK", State.OFF: "PAUSE"}.get(self, "TIME")


class Link:
    """The client, and the process that it talks to where this Blender started it.

    Attributes:
        client: None until the first tick, and after a failure to make one.
        devices: the backend's devices as it last told.
    """

    def __init__(self) -> None:
        self.client: Client | None = None
        self.devices: tuple[DeviceInfo, ...] = ()
        self._process: BackendProcess | None = None
        self._deadline = 0.0
        self._stopping = False
        self._told: str = ""
        self._command: list[str] | None = None
        self._command_until = 0.0

    # ----------------------------------------------------------------------------------------------------- state

    @property
    def state(self) -> State:
        """How things stand."""
        if self._stopping:
            return State.STOPPING
        if self.client is not None and self.client.ready:
            return State.READY
        if self._process is not None:
            return State.STARTING
        return State.CONNECTING if self.client is not None and not self.is_local else State.OFF

    @property
    def is_local(self) -> bool:
        """Whether the artist has chosen this computer's backend."""
        return preferences().place == "LOCAL"

    @property
    def version(self) -> str:
        """The backend's version, "" before it has told."""
        return self.client.welcome.version if self.client is not None and self.client.welcome is not None else ""

    def status(self) -> str:
        """One line on the backend, for people."""
        if self.state is State.READY and self.client is not None and not self.is_local:
            return "Connected to Another Computer"
        return self.state.value

    def command(self) -> list[str] | None:
        """The command that starts this computer's backend, looked for every few seconds."""
        if time.monotonic() >= self._command_until:
            self._command = find_command()
            self._command_until = time.monotonic() + COMMAND_SECONDS
        return self._command

    def needs_set_up(self) -> bool:
        """Whether no backend runs on this computer and nothing is known that could start one."""
        return self.is_local and self.state is State.OFF and self.command() is None

    def is_gone(self) -> bool:
        """Whether this computer's backend is no more; another computer's may only be out of reach."""
        return self.is_local and self._process is None and connection.find() is None

    # --------------------------------------------------------------------------------------------- opening and closing

    def open(self) -> Client:
        """The client of a backend that runs, is being started, or is being reached for.

        Raises:
            TurnaroundError: `backend.missing`, `backend.start`, `connection.string`, `online.denied`.
        """
        if self.client is not None and self.client.ready:
            return self.client
        if self.is_local and self._process is None and connection.find() is None:
            self._start()
            self._disconnect()  # a fresh client tries at once, an old one after its pause
        return self._connect()

    def _start(self) -> None:
        self._command_until = 0.0
        command = self.command()
        if command is None:
            raise TurnaroundError(
                "backend.missing",
                "There is no backend on this computer yet.",
                "Set it up, or choose its Python in the preferences.",
            )
        self._process = BackendProcess.start(command, own_folder(create=True), stays=preferences().stays)
        self._deadline = time.monotonic() + START_SECONDS

    def _connect(self) -> Client:
        if self.client is None:
            if self.is_local:
                self.client = Client(connection.local_address, name="Blender")
            else:
                address = connection.parse(preferences().connection_string)
                if address.host not in LOOPBACK and not bpy.app.online_access:
                    raise TurnaroundError(
                        "online.denied",
                        "Blender does not allow online access, and the backend is on another computer.",
                        "Allow it in the preferences, under System.",
                    )
                self.client = Client(address, name="Blender")
        return self.client

    def _disconnect(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
        self.devices = ()
        self._told = ""

    def stop(self) -> None:
        """Stops the backend; `poll` sees to it that it ends."""
        if self.client is not None and self.client.ready:
            self.client.shutdown()
        elif self._process is not None:
            self._process.stop()
        if self.client is not None:
            self.client.poll()  # the word must leave before anything is closed
        self._stopping = True
        self._deadline = time.monotonic() + STOP_SECONDS

    def reset(self) -> None:
        """Forgets the connection, after the artist chose another one."""
        self._disconnect()
        self._command_until = 0.0

    def ends_with_blender(self) -> bool:
        """Whether the backend is this Blender's own and goes with it."""
        return self._process is not None and not preferences().stays

    def close(self) -> None:
        """Lets go for good; a backend that this Blender started ends, unless it is to stay."""
        if self._process is not None and self.ends_with_blender():
            self._process.stop()
        self._process = None
        self._disconnect()

    # ------------------------------------------------------------------------------------------------------- the tick

    def poll(self) -> list:
        """What has arrived. Never waits.

        Raises:
            TurnaroundError: the backend that this Blender started has ended or says nothing; or the connection has a
                problem that does not go away by itself, which is raised once.
        """
        if self._stopping:
            self._see_it_stop()
        elif self._process is not None:
            self._watch_process()
        if self.client is None:
            if not self.is_local and not preferences().connection_string:
                return []
            self._connect_quietly()
        if self.client is None:
            return []
        received = self.client.poll()
        for message, _ in received:
            if isinstance(message, (Welcome, Pong)):
                self.devices = message.devices
        if not self.client.ready:  # what a backend that has gone said of its devices is not true any more
            self.devices = ()
        self._tell_problem()
        return received

    def _watch_process(self) -> None:
        assert self._process is not None
        if not self._process.running():
            process, self._process = self._process, None
            self._disconnect()  # the client may not have noticed yet
            raise process.ended()
        ready = self.client is not None and self.client.ready
        if ready:
            self._deadline = float("inf")
        elif time.monotonic() > self._deadline:
            process, self._process = self._process, None
            process.stop()
            raise TurnaroundError(
                "backend.silent",
                "The backend was started but does not answer.",
                "Try again; Copy Details has its last words.",
                details=process.last_words(),
            )

    def _see_it_stop(self) -> None:
        if self._process is not None and self._process.running():
            if time.monotonic() > self._deadline:
                self._process.stop()
                self._deadline = float("inf")
            return
        answers = self._process is None and self.client is not None and self.client.ready
        if answers and time.monotonic() <= self._deadline:
            return
        self._process, self._stopping = None, False
        self._disconnect()

    def _connect_quietly(self) -> None:
        """Connects where that needs no process; a problem is raised once, not at every tick."""
        try:
            self._connect()
        except TurnaroundError as error:
            if self._told != error.code:
                self._told = error.code
                raise

    def _tell_problem(self) -> None:
        problem = self.client.problem if self.client is not None else None
        if problem is None:
            self._told = ""
            return
        silent = self.is_local and problem.code in WAITING
        if not silent and problem.code != self._told:
            self._told = problem.code
            raise problem
