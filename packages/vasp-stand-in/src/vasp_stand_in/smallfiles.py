"""Write OSZICAR, CONTCAR, IBZKPT and what VASP prints on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vasp_stand_in.vasprun import number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vasp_stand_in.run import StandInRun


def fortran_e(value: float, width: int, digits: int) -> str:
    """Format as Fortran's ``Ew.d``: a zero before the point, which VASP drops for want of room in OSZICAR."""
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN".rjust(width)
    if value == 0:
        return f"{0.0:.{digits}f}E+00".rjust(width)
    mantissa, exponent = f"{abs(value):.{digits - 1}E}".split("E")
    sign = "-" if value < 0 else ""
    return f"{sign}0.{mantissa.replace('.', '')}E{int(exponent) + 1:+03d}".rjust(width)


def oszicar_lines(run: StandInRun) -> Iterator[str]:
    """Lines of OSZICAR, which standard output repeats."""
    yield "       N       E                     dE             d eps       ncg     rms          rms(c)"
    bands = run.given.bands * len(run.given.mesh.points)
    for step, (energy, change) in enumerate(zip(run.free_energies_eV, run.loop.changes_eV, strict=True), start=1):
        numbers = fortran_e(energy, 20, 12) + fortran_e(change, 15, 5) + fortran_e(change, 15, 5)
        yield f"DAV:{step:4d}    {numbers}{bands:6d}{fortran_e(abs(change), 12, 3)}"
    energy = run.free_energies_eV[-1]
    f, e0, d = (
        fortran_e(value, 0, 8).replace("0.", ".", 1) for value in (energy, run.sigma_zero_eV(energy), -run.entropy_eV)
    )
    line = f"   1 F= {f} E0= {e0}  d E ={d}"
    yield line + (f"  mag={float(run.point.magmoms_muB.sum()):11.4f}" if run.given.spins == 2 else "")


def write_oszicar(run: StandInRun, path: Path) -> None:
    """Write OSZICAR."""
    path.write_text("\n".join(oszicar_lines(run)) + "\n")


def write_contcar(run: StandInRun, path: Path) -> None:
    """Write CONTCAR: POSCAR's atoms where they were, wrapped into the cell."""
    atoms, species = run.given.atoms, run.given.species
    lines = [f"{run.given.comment:40s}", "   1.00000000000000     "]
    lines += [" " + "".join(number(value, 22, 16) for value in row) for row in atoms.cell.array]
    lines += ["".join(f"{kind.element:>5s}" for kind in species), "".join(f"{kind.count:6d}" for kind in species)]
    lines += ["Direct", *("".join(number(v, 20, 16) for v in row) for row in atoms.get_scaled_positions(wrap=False))]
    lines += [" ", *("".join(f"{0.0:16.8E}" for _ in range(3)) for _ in range(len(atoms)))]
    path.write_text("\n".join(lines) + "\n")


def write_ibzkpt(run: StandInRun, path: Path) -> None:
    """Write IBZKPT: the irreducible k-points with integer weights."""
    mesh = run.given.mesh
    smallest = mesh.weights.min()
    lines = ["Automatically generated mesh", f"{len(mesh.points):8d}", "Reciprocal lattice"]
    for row, weight in zip(mesh.points, mesh.weights, strict=True):
        lines.append("".join(f"{value:20.14f}" for value in row) + f"{round(weight / smallest):14d}")
    path.write_text("\n".join(lines) + "\n")


def stdout_head(run: StandInRun) -> Iterator[str]:
    """Return what VASP prints before the electronic loop."""
    elements = " ".join(kind.element for kind in run.given.species)
    yield " running on    1 total cores"
    yield f" vasp.{run.version}"
    yield f" {run.what}: electronic steps, bands and DOS are made up"
    yield f" POSCAR found type information on POSCAR {elements}"
    yield f" POSCAR found : {len(run.given.species):2d} types and {len(run.given.atoms):7d} ions"
    yield " POSCAR, INCAR and KPOINTS ok, starting setup"
    yield " WAVECAR not read"
    yield " entering main loop"
