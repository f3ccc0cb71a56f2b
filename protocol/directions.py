"""Which messages each end may send; what decodes as one of them is safe to act on."""

from __future__ import annotations

from .messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Event,
    Failed,
    FreeMemory,
    Hello,
    Imagine,
    Imagined,
    JobList,
    Jobs,
    Keep,
    Ping,
    Pong,
    Result,
    Shutdown,
    Submit,
    Welcome,
)
from .models import CancelModel, ModelList, ModelOrder, ModelProgress, Models

JobMessage = Submit | Imagine | Cancel | Keep | Attach | Jobs
ClientMessage = Hello | JobMessage | Models | ModelOrder | CancelModel | Ping | FreeMemory | Shutdown
BackendMessage = (
    Welcome | Accepted | Event | Result | Imagined | Failed | Cancelled | JobList | ModelList | ModelProgress | Pong
)
