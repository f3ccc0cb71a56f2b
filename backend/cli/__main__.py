"""`python -m backend.cli`, for whoever knows the environment's Python but not where its programs are."""

from backend.cli import app

app(prog_name="turnaround")
