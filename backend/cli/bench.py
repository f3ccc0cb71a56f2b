"""`turnaround bench`."""

from __future__ import annotations

import importlib
import pkgutil
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from protocol.errors import TurnaroundError

from .console import Verbose, error_console, output_console, warn


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which benchmarks to run; all of them if left out.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the numbers as JSON.")] = None,
    verbose: Verbose = False,
) -> None:
    """Measure how fast Turnaround is on this machine, against what it aims at."""
    import backend.bench as package

    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    known = sorted(name for name in found if not name.startswith("_"))
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise TurnaroundError(
            "bench.unknown",
            f'There is no benchmark called "{unknown[0]}".',
            f"Choose from: {', '.join(known) or 'none is installed'}.",
            field="names",
        )
    table = Table("Benchmark", "Measured", "Value", "Target", "Met")
    rows: list[dict[str, object]] = []
    for name in names or known:
        error_console().print(f"Measuring {name} ...")
        try:
            for row in package.run(name, importlib.import_module(f"backend.bench.{name}")):
                rows.append({**msgspec.structs.asdict(row), "met": row.met})
                target = f"{row.target[0]} {row.target[1]:g}" if row.target else ""
                met = {True: "yes", False: "no", None: ""}[row.met]
                table.add_row(name, row.name.replace("_", " "), f"{row.value:.4g}", target, met)
        except TurnaroundError as error:  # one that cannot run here must not take the others with it
            warn(f"{name}: {error}")
            rows.append({"benchmark": name, "error": error.code, "sentence": error.sentence})
    output_console().print(table)
    if output is not None:
        from backend.geometry.export import write_file

        machine = {"system": platform.platform(terse=True), "python": platform.python_version()}
        content = {"turnaround": version("turnaround"), "machine": machine, "measurements": rows}
        write_file(output, msgspec.json.format(msgspec.json.encode(content)))
