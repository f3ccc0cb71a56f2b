"""What is made of meshes, each when it is first asked for, and kept in a folder.

A run begins at once, and loses nothing that was made when it is stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from backend.pipelines.stage import digest
from backend.training.data.meshes import MeshFile
from protocol.errors import TurnaroundError

Arrays = dict[str, NDArray]


class MeshStore:
    """Arrays of meshes, each made once.

    Args:
        files: the meshes.
        episodes: how many there are of each mesh.
        folder: where they are kept.
        make: makes those of a mesh and an episode; the same arguments give the same arrays.
        of: all that `make` depends on beside its arguments: a part of the files' names.
        log: told of meshes that cannot be used, once each.
    """

    def __init__(
        self,
        files: Sequence[MeshFile],
        episodes: int,
        folder: Path,
        make: Callable[[MeshFile, int], Arrays],
        of: tuple[object, ...],
        log: Callable[[str], None] = print,
    ) -> None:
        self.files, self.episodes, self.folder, self.make, self.of, self.log = files, episodes, folder, make, of, log
        self._unusable: set[str] = set()

    def __len__(self) -> int:
        return len(self.files) * self.episodes

    def __getitem__(self, index: int) -> Arrays:
        """The arrays; of the next mesh where this one cannot be read.

        Raises:
            TurnaroundError: `meshes.unreadable`, if none can.
        """
        mesh, episode = divmod(index, self.episodes)
        for turn in range(len(self.files)):
            file = self.files[(mesh + turn) % len(self.files)]
            if file.name in self._unusable:
                continue
            try:
                return self._arrays(file, episode)
            except TurnaroundError as error:
                if not error.code.startswith("meshes."):
                    raise
                self._unusable.add(file.name)
                self.log(f"left out: {error.sentence}")
        raise TurnaroundError("meshes.unreadable", "None of the meshes can be read.", "Use meshes of another kind.")

    def _arrays(self, file: MeshFile, episode: int) -> Arrays:
        key = digest(file.name, file.path.stat().st_size, episode, *self.of)
        path = self.folder / key[:2] / f"{key[:24]}.safetensors"
        if path.is_file():
            return load_file(path)
        arrays = self.make(file, episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another process may be making the same
        save_file(arrays, temporary)
        temporary.replace(path)
        return arrays
