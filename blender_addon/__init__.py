"""Turnaround: one picture to a coloured 3D mesh."""


def register() -> None:
    pass


def unregister() -> None:
    pass
