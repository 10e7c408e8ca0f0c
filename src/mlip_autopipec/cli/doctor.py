"""``doctor``: what this machine can do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mlip_autopipec.cli.base import AsJson, app, console, put, told
from mlip_autopipec.cli.exit_codes import ExitCode


@app.command()
def doctor(
    run_file: Annotated[
        Path | None, typer.Argument(help="A run file whose oracle is tried instead of EMT.", metavar="RUN.yaml")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check the installation only; compute nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Check programs, packages, licences, stores and settings, and test gamma, forces and fits in under a minute.

    The self-test: gamma is positive and the same in LAMMPS and in pyace, forces are the derivative of the energy, a
    fine-tune continues, the oracle runs, documents of the store can be read back. Green is working, yellow is a note or
    an optional part that is missing, red has to be corrected; yellow and red lines say what to do. Exit code 0 if none
    is red, else 1.

    For instance:

        mlip-autopipec doctor
        mlip-autopipec doctor Cu.yaml
        mlip-autopipec doctor --quick --json
    """
    started = time.perf_counter()
    with told(as_json):
        from mlip_autopipec.doctor.examine import examine
        from mlip_autopipec.runfile.model import RunFile

        campaign = None if run_file is None else RunFile.load(run_file)
        results = []
        for result in examine(campaign, science=not quick):
            results.append(result)
            console.print(
                f"[{result.light}]{result.light:<6}[/] [bold]{escape(result.name)}[/]: {escape(result.found)}"
            )
            if result.remedy:
                console.print(f"       -> {result.remedy}", markup=False)
        counts = {light: sum(result.light == light for result in results) for light in ("green", "yellow", "red")}
        seconds = time.perf_counter() - started
        told_counts = ", ".join(f"[{light}]{n} {light}[/]" for light, n in counts.items())
        console.print(f"{told_counts} in {seconds:.0f} s")
        code = ExitCode.FAILED if counts["red"] else ExitCode.CONVERGED
    if as_json:
        put(
            {"checks": [one.to_dict() for one in results], "counts": counts, "seconds": seconds, "exit_code": int(code)}
        )
    raise typer.Exit(int(code))
