"""Where a backend keeps what it can make again and what it must not lose."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from protocol.security import HOME_VARIABLE, home


def cache_folder() -> Path:
    """For results of stages: may be emptied at any time."""
    override = os.environ.get(HOME_VARIABLE)
    return home() / "cache" if override else Path(platformdirs.user_cache_dir("turnaround", appauthor=False))


def jobs_folder() -> Path:
    """For the journal of jobs, their pictures and results."""
    override = os.environ.get(HOME_VARIABLE)
    data = home() if override else Path(platformdirs.user_data_dir("turnaround", appauthor=False))
    return data / "jobs"
