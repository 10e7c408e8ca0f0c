"""Write OUTCAR: the blocks that pymatgen, custodian, emmet and ASE look for, in VASP's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.units import Hartree

from vasp_stand_in.compute import KBAR
from vasp_stand_in.electrons import HBAR2_OVER_2M
from vasp_stand_in.parameters import fft_grids, parameter_values
from vasp_stand_in.vasprun import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vasp_stand_in.run import StandInRun

RULE = "-" * 104
VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0))  # VASP's order: XX YY ZZ XY YZ ZX


def write_outcar(run: StandInRun, path: Path) -> None:
    """Write the file."""
    path.write_text("\n".join(_lines(run)) + "\n")


def _lines(run: StandInRun) -> Iterator[str]:
    yield from _head(run)
    yield from _dimensions(run)
    yield from _settings(run)
    yield from _cell(run)
    yield from _plane_waves(run)
    for step in range(len(run.loop.energies_eV)):
        yield from _electronic_step(run, step)
    yield from _bands(run)
    if run.loop.converged:
        yield f"{'-' * 24} aborting loop because EDIFF is reached {'-' * 40}"
    else:
        yield f"{'-' * 24} aborting loop EDIFF was not reached (unconverged)  {'-' * 28}"
    yield ""
    yield from _magnetization(run)
    yield from _stress(run)
    yield from _forces(run)
    yield from _free_energy(run)
    yield from _tail()


def _head(run: StandInRun) -> Iterator[str]:
    given = run.given
    yield f" vasp.{run.version}"
    yield "  "
    yield f" executed on                 ASE date {run.started:%Y.%m.%d  %H:%M:%S}"
    yield " running on    1 total cores"
    yield f" {run.what}"
    yield " energy, forces and stress are the calculator's; electronic steps, bands and DOS are made up"
    yield from ("", "", RULE, "", "", " INCAR:")
    yield from (f" POTCAR:    {kind.header:38s}" for kind in given.species)
    for kind in given.species:
        yield f" POTCAR:    {kind.header:38s}"
        yield f"   VRHFIN ={kind.element}:"
        yield f"   TITEL  = {kind.titel}"
        yield f"   POMASS = {kind.pomass_amu:8.3f}; ZVAL   = {kind.zval:8.3f}    mass and valenz"
        yield f"   ENMAX  = {kind.enmax_eV:8.3f}; ENMIN  = {0.75 * kind.enmax_eV:8.3f} eV"
    yield ""
    yield f" POSCAR: {given.comment}"
    yield "  positions in direct lattice"
    yield "  No initial velocities read in"
    yield ""


def _dimensions(run: StandInRun) -> Iterator[str]:
    given = run.given
    coarse, fine = fft_grids(given)
    points = len(given.mesh.points)
    if given.mesh.divisions is not None:
        yield "Automatic generation of k-mesh."
        yield " generate k-points for: " + "".join(f"{n:5d}" for n in given.mesh.divisions)
    yield ""
    yield f" Found {points:6d} irreducible k-points:"
    yield from ("", " Following reciprocal coordinates:", "            Coordinates               Weight")
    total = 1 if given.mesh.divisions is None else int(np.prod(given.mesh.divisions))
    for (a, b, c), weight in zip(given.mesh.points, given.mesh.weights, strict=True):
        yield f"{a:10.6f}{b:10.6f}{c:10.6f}{weight * total:14.6f}"
    yield from ("", RULE, "", " Dimension of arrays:")
    yield (
        f"   k-points           NKPTS = {points:6d}   k-points in BZ     NKDIM = {points:6d}"
        f"   number of bands    NBANDS= {given.bands:6d}"
    )
    yield (
        f"   number of dos      NEDOS = {len(run.bands.grid_eV):6d}   number of ions     NIONS = {len(given.atoms):6d}"
    )
    yield f"   total plane-waves  NPLWV = {int(np.prod(coarse)):6d}"
    yield "   dimension x,y,z NGX = {:5d} NGY ={:5d} NGZ ={:5d}".format(*coarse)
    yield "   dimension x,y,z NGXF= {:5d} NGYF={:5d} NGZF={:5d}".format(*fine)
    yield "   ions per type =            " + "".join(f"{kind.count:4d}" for kind in given.species)
    yield ""


def _settings(run: StandInRun) -> Iterator[str]:
    given = run.given
    value = {parameter.name: text for parameter, text in reversed(parameter_values(given))}
    yield f" SYSTEM =  {value['SYSTEM']:40s}"
    yield f" POSCAR =  {given.comment:40s}"
    yield ""
    yield " Startparameter for this run:"
    yield f"   NWRITE = {int(value['NWRITE']):6d}    write-flag & timer"
    yield f"   PREC   = {value['PREC']:8s}  normal or accurate (medium, high low for compatibility)"
    yield f"   ISTART = {int(value['ISTART']):6d}    job   : 0-new  1-cont  2-samecut"
    yield f"   ICHARG = {int(value['ICHARG']):6d}    charge: 1-file 2-atom 10-const"
    yield f"   ISPIN  = {given.spins:6d}    spin polarized calculation?"
    yield "   LNONCOLLINEAR =      F non collinear calculations"
    yield "   LSORBIT =      F    spin-orbit coupling"
    yield f"   METAGGA= {value['LMETAGGA']:>6s}    non-selfconsistent MetaGGA calc."
    yield from ("", " Electronic Relaxation 1")
    yield f"   ENCUT  = {given.encut_eV:6.1f} eV  {2 * given.encut_eV / Hartree:6.2f} Ry"
    yield (
        f"   NELM   = {int(value['NELM']):6d};   NELMIN={int(value['NELMIN']):3d}; NELMDL={int(value['NELMDL']):3d}"
        "     # of ELM steps "
    )
    yield f"   EDIFF  = {float(value['EDIFF']):.1E}   stopping-criterion for ELM"
    yield " Ionic relaxation"
    yield "   NSW    =      0    number of steps for IOM"
    yield "   IBRION =     -1    ionic relax: 0-MD 1-quasi-New 2-CG"
    yield f"   ISIF   = {int(value['ISIF']):6d}    stress and relaxation"
    yield f"   ISYM   = {int(value['ISYM']):6d}    0-nonsym 1-usesym 2-fastsym"
    yield f"   PSTRESS= {float(value['PSTRESS']):6.1f} pullay stress"
    yield from ("", "  Mass of Ions in am")
    yield "   POMASS = " + "".join(f"{kind.pomass_amu:6.2f}" for kind in given.species)
    yield "  Ionic Valenz"
    yield "   ZVAL   = " + "".join(f"{kind.zval:6.2f}" for kind in given.species)
    yield f"   NELECT = {given.electrons:12.4f}    total number of electrons"
    yield f"   NUPDOWN= {float(value['NUPDOWN']):12.4f}    fix difference up-down"
    yield from ("", " DOS related values:")
    smearing, sigma = int(value["ISMEAR"]), float(value["SIGMA"])
    yield f"   ISMEAR = {smearing:5d};   SIGMA  = {sigma:6.2f}  broadening in eV -4-tet -1-fermi 0-gaus"
    yield from ("", " Electronic relaxation 2 (details)")
    yield f"   IALGO  = {int(value['IALGO']):6d}    algorithm"
    yield from ("", " Write flags")
    yield f"   LORBIT       = {int(value['LORBIT']):6d}    0 simple, 1 ext, 2 COOP (PROOUT), +10 PAW based schemes"
    yield from ("", " Static calculation", " charge density and potential will be updated during run", "")


def _cell(run: StandInRun) -> Iterator[str]:
    atoms = run.given.atoms
    yield from ("", RULE, "", "")
    yield f"  energy-cutoff  : {run.given.encut_eV:12.2f}"
    yield from _lattice(run)
    yield f" k-points in reciprocal lattice and weights: read from {run.given.mesh.source}"
    for (a, b, c), weight in zip(run.given.mesh.points, run.given.mesh.weights, strict=True):
        yield f"{a:13.8f}{b:12.8f}{c:12.8f}{weight:12.3f}"
    yield ""
    yield " position of ions in fractional coordinates (direct lattice) "
    yield from (_row(row, 12, 8) for row in atoms.get_scaled_positions(wrap=False))
    yield ""
    yield " position of ions in cartesian coordinates  (Angst):"
    yield from (_row(row, 12, 8) for row in atoms.positions)
    yield from ("", "")


def _row(values: Iterable[float], width: int, decimals: int) -> str:
    return " " + "".join(number(value, width, decimals) for value in values)


def _lattice(run: StandInRun) -> Iterator[str]:
    cell = run.given.atoms.cell
    reciprocal = cell.reciprocal().array
    yield f"  volume of cell : {cell.volume:12.2f}"
    yield "      direct lattice vectors                 reciprocal lattice vectors"
    for direct, dual in zip(cell.array, reciprocal, strict=True):
        yield "   " + "".join(f"{value:13.9f}" for value in (*direct, *dual))
    yield from ("", "  length of vectors")
    lengths = (*cell.lengths(), *np.linalg.norm(reciprocal, axis=1))
    yield "   " + "".join(f"{value:13.9f}" for value in lengths)
    yield from ("", "")


def _plane_waves(run: StandInRun) -> Iterator[str]:
    """Free-electron estimate of the number of plane waves: volume of the cut-off sphere over that of the zone."""
    sphere = (run.given.encut_eV / HBAR2_OVER_2M) ** 1.5 / (6 * np.pi**2) * run.given.atoms.cell.volume
    yield from ("", RULE, "", "")
    for index, (a, b, c) in enumerate(run.given.mesh.points, start=1):
        yield f" k-point {index:3d} : {a:8.4f}{b:7.4f}{c:7.4f}  plane waves: {round(sphere):7d}"
    yield ""
    yield f" maximum and minimum number of plane-waves per node : {round(sphere):9d}{round(sphere):9d}"
    yield ""


def _electronic_step(run: StandInRun, step: int) -> Iterator[str]:
    energy, change = run.free_energies_eV[step], float(run.loop.changes_eV[step])
    yield from ("", RULE, "", "")
    yield f"{'-' * 39} Iteration      1({step + 1:4d})  {'-' * 39}"
    yield from ("", "", "      LOOP:  cpu time    0.0000: real time    0.0000", "")
    yield f" total energy-change (2. order) :{change:14.7E}  ({change:14.7E})"
    total = f"{float(run.point.magmoms_muB.sum()):16.7f}" if run.given.spins == 2 else " "
    yield f" number of electron {run.given.electrons:15.7f} magnetization {total}"
    yield ""
    yield " Free energy of the ion-electron system (eV)"
    yield "  ---------------------------------------------------"
    for label in (
        "alpha Z        PSCENC =",
        "Ewald energy   TEWEN  =",
        "-Hartree energ DENC   =",
        "-exchange      EXHF   =",
        "-V(xc)+E(xc)   XCENC  =",
    ):
        yield f"  {label}{number(0.0, 19)}"
    yield f"  PAW double counting   ={number(0.0, 19)}{number(0.0, 19)}"
    yield f"  entropy T*S    EENTRO ={number(-run.entropy_eV, 19)}"
    yield f"  eigenvalues    EBANDS ={number(run.without_entropy_eV(energy), 19)}"
    yield f"  atomic energy  EATOM  ={number(0.0, 19)}"
    yield "  ---------------------------------------------------"
    yield f"  free energy    TOTEN  ={number(energy, 19)} eV"
    yield ""
    yield (
        f"  energy without entropy ={number(run.without_entropy_eV(energy), 19)}"
        f"  energy(sigma->0) ={number(run.sigma_zero_eV(energy), 19)}"
    )
    yield ""


def _bands(run: StandInRun) -> Iterator[str]:
    bands, spins = run.bands, run.given.spins
    yield from ("", RULE, "", "")
    yield f" E-fermi : {bands.fermi_eV:8.4f}     XC(G=0): {0.0:8.4f}     alpha+bet :{0.0:8.4f}"
    yield from ("", "")
    for spin in range(spins):
        if spins == 2:
            yield from (f" spin component {spin + 1}", "")
        for k, point in enumerate(run.given.mesh.points):
            yield f" k-point {k + 1:5d} : {point[0]:12.4f}{point[1]:10.4f}{point[2]:10.4f}"
            yield "  band No.  band energies     occupation "
            for band, (energy, filled) in enumerate(
                zip(bands.energies_eV[k], bands.occupations[k], strict=True), start=1
            ):
                yield f"{band:7d}{energy:13.4f}{(3 - spins) * filled:13.5f}"
            yield ""
    yield from ("", RULE, "", "")


def _magnetization(run: StandInRun) -> Iterator[str]:
    """Charges (each ion's ZVAL) and moments per ion, as LORBIT asks for them."""
    if run.given.incar.integer("LORBIT", 0) < 10:
        return
    charges = np.repeat([kind.zval for kind in run.given.species], [kind.count for kind in run.given.species])
    tables = [("total charge     ", charges)]
    if run.given.spins == 2:
        tables.append(("magnetization (x)", run.point.magmoms_muB))
    for title, values in tables:
        yield from ("", f" {title}", "", "# of ion       s       p       d       tot")
        yield "------------------------------------------"
        for index, value in enumerate(values, start=1):
            yield f"{index:5d}      {value:8.3f}{0.0:8.3f}{0.0:8.3f}{value:8.3f}"
        if len(values) > 1:
            yield "--------------------------------------------------"
            yield f"tot        {sum(values):8.3f}{0.0:8.3f}{0.0:8.3f}{sum(values):8.3f}"
        yield ""


def _stress(run: StandInRun) -> Iterator[str]:
    volume = run.given.atoms.cell.volume
    if run.stress_kB is not None:
        kilobar = [float(run.stress_kB[i, j]) for i, j in VOIGT]
        pulay = run.given.incar.real("PSTRESS", 0.0)
        yield "  FORCE on cell =-STRESS in cart. coord.  units (eV):"
        yield "  Direction    XX          YY          ZZ          XY          YZ          ZX"
        yield f"  {'-' * 86}"
        yield "  Total  " + "".join(number(value * KBAR * volume, 12, 5) for value in kilobar)
        yield "  in kB  " + "".join(number(value, 12, 5) for value in kilobar)
        yield f"  external pressure = {sum(kilobar[:3]) / 3 - pulay:11.2f} kB  Pullay stress = {pulay:11.2f} kB"
    yield from ("", "", " VOLUME and BASIS-vectors are now :", f" {'-' * 77}")
    yield f"  energy-cutoff  : {run.given.encut_eV:12.2f}"
    yield from _lattice(run)


def _forces(run: StandInRun) -> Iterator[str]:
    forces = run.point.forces_eV_per_A
    yield " POSITION                                       TOTAL-FORCE (eV/Angst)"
    yield f" {'-' * 83}"
    for position, force in zip(run.given.atoms.positions, forces, strict=True):
        yield "".join(number(v, 13, 5) for v in position) + "   " + "".join(number(v, 14, 6) for v in force)
    yield f" {'-' * 83}"
    yield "    total drift:                        " + "".join(number(v, 14, 6) for v in forces.sum(axis=0))
    yield from ("", "", RULE, "", "", "")


def _free_energy(run: StandInRun) -> Iterator[str]:
    energy = run.free_energies_eV[-1]
    yield "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)"
    yield "  ---------------------------------------------------"
    yield f"  free  energy   TOTEN  ={number(energy, 19)} eV"
    yield ""
    yield (
        f"  energy  without entropy={number(run.without_entropy_eV(energy), 19)}"
        f"  energy(sigma->0) ={number(run.sigma_zero_eV(energy), 19)}"
    )
    if run.pv_eV:
        yield ""
        yield f"  enthalpy is  TOTEN    ={number(energy + run.pv_eV, 19)} eV   P V={number(run.pv_eV, 19)}"
    yield from (" ", "", "", RULE, "")


def _tail() -> Iterator[str]:
    from resource import RUSAGE_SELF, getrusage

    usage = getrusage(RUSAGE_SELF)
    yield from ("", " General timing and accounting informations for this job:")
    yield f" {'=' * 56}"
    yield "  "
    for label, value in (
        ("Total CPU time used (sec)", f"{usage.ru_utime + usage.ru_stime:12.3f}"),
        ("User time (sec)", f"{usage.ru_utime:12.3f}"),
        ("System time (sec)", f"{usage.ru_stime:12.3f}"),
        ("Elapsed time (sec)", f"{usage.ru_utime + usage.ru_stime:12.3f}"),
    ):
        yield f"{label:>42s}: {value}"
    yield "  "
    yield f"{'Maximum memory used (kb)':>42s}: {usage.ru_maxrss:11d}."
    yield f"{'Average memory used (kb)':>42s}: {0:11d}."
