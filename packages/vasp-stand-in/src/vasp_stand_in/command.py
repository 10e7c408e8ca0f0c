"""The command line of the stand-in, and the order in which a run leaves its files."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vasp_stand_in.environment import OPTIONS_VARIABLE
from vasp_stand_in.errors import InvalidInputError
from vasp_stand_in.failures import MESSAGES, Failure, FailurePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vasp_stand_in.run import StandInRun

# VASP opens all of these when it starts
FILES = ("OUTCAR", "OSZICAR", "CONTCAR", "IBZKPT", "vasprun.xml")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options; those of the environment come first, so that the command line overrides them."""
    parser = argparse.ArgumentParser(
        prog="python -m vasp_stand_in",
        description="Stand-in for VASP: reads POSCAR, INCAR, KPOINTS and POTCAR of this directory, computes a single "
        "point with an ASE calculator and writes VASP's files. NOT VASP, and the files say so.",
        epilog=f"Options are also read from the environment variable {OPTIONS_VARIABLE}.",
    )
    add = parser.add_argument
    add("--calculator", default="emt", help="emt (default), lj, gfn-xtb or the import path of a class, module.Class")
    add("--arguments", help="keyword arguments of the calculator, a JSON object")
    add(
        "--energy-zero",
        choices=["calculator", "atoms"],
        default="calculator",
        help="what the energy is counted from: as the calculator has it (default), or the free atoms, so that bound "
        "structures are negative as in VASP (EMT counts from the bulk elements)",
    )
    add("--entropy", type=float, default=0.0, help="T*S in eV per cell: F stays the calculator's energy, the energy "
        "without entropy becomes F + TS, that of sigma->0 F + TS/2 (default 0: all the same)")  # fmt: skip
    add("--fail", type=Failure, choices=list(Failure), help="fail in this way")
    add("--message", default="brmix", help=f"with --fail message: {', '.join(MESSAGES)}, or any text")
    add("--exit-code", type=int, default=1, help="with --fail exit-code, crash-at-end or message")
    add("--seconds", type=float, default=3600.0, help="with --fail hang")
    add("--calls", help="fail only the calls first:N or every:K; needs --counter")
    add("--counter", type=Path, help="file that counts the calls")
    add("--larger-than", type=int, help="fail only structures with more atoms than this")
    add("--fraction", type=float, help="fail only this fraction of structures, chosen by a hash of POSCAR and seed")
    add("--seed", type=int, default=0)
    return parser.parse_args([*shlex.split(os.environ.get(OPTIONS_VARIABLE, "")), *arguments])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the working directory; returns the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    plan = FailurePlan(
        kind=options.fail,
        message=options.message,
        exit_code=options.exit_code,
        seconds=options.seconds,
        calls=options.calls,
        counter=options.counter,
        larger_than=options.larger_than,
        fraction=options.fraction,
        seed=options.seed,
    )
    folder = Path.cwd()
    try:
        poscar = (folder / "POSCAR").read_text() if (folder / "POSCAR").is_file() else ""
        failure = plan.kind if poscar and plan.strikes(poscar) else None
        if failure is Failure.MISSING:
            return 0
        run = run_single_point(folder, options, failure)
    except InvalidInputError as error:
        _say(f" ERROR: {error}", f" stand-in of mlip_autopipec (NOT VASP) refuses to continue in {folder}")
        return 1
    except Exception as error:  # whatever a calculator may raise
        _say(f" ERROR: the stand-in with calculator {options.calculator} failed with {type(error).__name__}: {error}")
        return 1
    return write_files(run, folder, plan, failure)


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def run_single_point(folder: Path, options: argparse.Namespace, failure: Failure | None = None) -> StandInRun:
    """Read the folder's input, compute it, and make up what is to be made up."""
    from vasp_stand_in.compute import build_calculator, compute, free_atoms_energy_eV
    from vasp_stand_in.electrons import empty_lattice_bands, made_up_loop
    from vasp_stand_in.inputs import read_input
    from vasp_stand_in.run import StandInRun

    given = read_input(folder)
    calculator = build_calculator(options.calculator, options.arguments)
    point = compute(given.atoms, calculator)
    if options.energy_zero == "atoms":
        point = replace(point, energy_eV=point.energy_eV - free_atoms_energy_eV(given.atoms, calculator))
    if failure is Failure.NAN:
        point = replace(point, energy_eV=float("nan"))
    converges = failure is not Failure.UNCONVERGED
    loop = made_up_loop(point.energy_eV, len(given.atoms), given.incar, converges=converges)
    name = options.calculator.upper() if "." not in options.calculator else options.calculator
    return StandInRun(given, point, empty_lattice_bands(given), loop, name, options.entropy)


def write_files(run: StandInRun, folder: Path, plan: FailurePlan, failure: Failure | None) -> int:
    """Write standard output and the files in the order of VASP, as far as the failure lets it; return the exit code."""
    from vasp_stand_in import smallfiles
    from vasp_stand_in.outcar import write_outcar
    from vasp_stand_in.vasprun import write_vasprun

    _say(*smallfiles.stdout_head(run))
    for name in FILES:
        (folder / name).write_text("")
    if failure is Failure.EXIT_CODE:
        _say(f" I REFUSE TO CONTINUE WITH THIS SICK JOB (failure on demand, exit code {plan.exit_code})")
        return plan.exit_code
    write_outcar(run, folder / "OUTCAR")
    write_vasprun(run, folder / "vasprun.xml")
    smallfiles.write_oszicar(run, folder / "OSZICAR")
    smallfiles.write_ibzkpt(run, folder / "IBZKPT")
    steps = list(smallfiles.oszicar_lines(run))
    if failure in {Failure.KILLED, Failure.HANG, Failure.MESSAGE}:
        for name in ("OUTCAR", "vasprun.xml", "OSZICAR"):
            _cut_in_half(folder / name)
        _say(*steps[: len(steps) // 2])
        return _end_in_the_loop(plan, failure)
    smallfiles.write_contcar(run, folder / "CONTCAR")
    if failure is Failure.TRUNCATED:
        _cut_in_half(folder / "vasprun.xml")
    _say(*steps)
    if run.free_energies_eV[-1] > 0:
        _say(
            " stand-in: custodian's PositiveEnergyErrorHandler takes a positive energy for an error; see --energy-zero"
        )
    return plan.exit_code if failure is Failure.CRASH_AT_END else 0


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _end_in_the_loop(plan: FailurePlan, failure: Failure) -> int:
    if failure is Failure.KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if failure is Failure.HANG:
        time.sleep(plan.seconds)
        return 0
    _say(f" {MESSAGES.get(plan.message, plan.message)}")
    return plan.exit_code
