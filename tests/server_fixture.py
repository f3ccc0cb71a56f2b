"""A real backend in its own process, on a home of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol import connection
from protocol.client import Client

HERE = Path(__file__).parent
CODE = """
import sys, json
from backend.server import jobs
from backend.server.serve import serve
from protocol.errors import TurnaroundError
arguments = json.loads(sys.argv[1])
jobs.CANCEL_SECONDS = arguments.pop("cancel_seconds", jobs.CANCEL_SECONDS)
try:
    installed = {"pipelines": "fake_pipelines:PIPELINES", "painters": "fake_pipelines:PAINTERS"}
    serve(**{"device": "cpu", "warm": False} | installed | arguments)
except TurnaroundError as error:
    sys.exit(f"{error.code}: {error}")
"""


class Backend:
    def __init__(self, home):
        self.home = home
        self.process = None

    def start(self, arguments="{}", wait=True):
        path = os.pathsep.join([str(HERE), str(HERE.parent)])
        environment = os.environ | {"TURNAROUND_HOME": str(self.home), "PYTHONPATH": path}
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        if wait:
            self.process = process
            until(lambda: (found := connection.find()) and found.pid == process.pid, process)
        return process

    def stop(self):
        """Ends it as a service manager would; returns what it wrote to its log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=20)
        return log

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=20)

    def client(self, name="test"):
        return Client(connection.local_address, name=name)


@contextmanager
def clean_backend(home):
    """A backend that has to end well, with nothing in its log that went wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNAROUND_HOME", str(home))
        backend = Backend(home)
        backend.start()
        yield backend
        log = backend.stop()
        assert backend.process.returncode == 0, log
        assert "could not" not in log, log
        assert "Fatal" not in log, log


def until(condition, process=None, seconds=20.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value
