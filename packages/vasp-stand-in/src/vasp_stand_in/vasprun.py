"""Write vasprun.xml with the elements of VASP's own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from vasp_stand_in.parameters import format_value, incar_kinds, parameter_values

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vasp_stand_in.run import StandInRun

ENERGY_PARTS = ("alphaZ", "ewald", "hartreedc", "XCdc", "pawpsdc", "pawaedc", "eentropy", "bandstr", "atom")


def number(value: float, width: int = 16, decimals: int = 8) -> str:
    """Format a number as Fortran does, where NaN is spelled so."""
    return f"{value:{width}.{decimals}f}".replace("nan", "NaN")


def write_vasprun(run: StandInRun, path: Path) -> None:
    """Write the file; numbers have the eight decimals of VASP."""
    root = ET.Element("modeling")
    _generator(root, run)
    incar = _sub(root, "incar")
    for name, kind, text in incar_kinds(run.given.incar):
        if name == "MAGMOM":
            text = " ".join(map(str, run.given.incar.reals("MAGMOM") or []))  # noqa: PLW2901
        _value(incar, name, kind, text if kind != "string" else f" {text}")
    _structure(root, run, "primitive_cell")
    primitive = _sub(root, "varray", name="primitive_index")
    for index in range(len(run.given.atoms)):
        _sub(primitive, "v", f"{index + 1:9d} ", type="int")
    _kpoints(root, run)
    _parameters(root, run)
    _atominfo(root, run)
    _structure(root, run, "initialpos")
    _calculation(root, run)
    _structure(root, run, "finalpos")
    ET.indent(root, " ")
    path.write_bytes(ET.tostring(root, encoding="ISO-8859-1", xml_declaration=True, short_empty_elements=False) + b"\n")


def _sub(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _value(parent: ET.Element, name: str, kind: str, text: str) -> None:
    """Add ``<i>`` for one value, ``<v>`` for a vector; numbers that are no integers have no type, as in VASP's."""
    attributes = {} if kind.startswith("float") else {"type": kind.removesuffix("s")}
    tag = "v" if kind in {"floats", "ints"} else "i"
    _sub(parent, tag, format_value(kind, text), **attributes, name=name)


def _rows(parent: ET.Element, name: str, rows: Iterable[Iterable[float]]) -> None:
    array = _sub(parent, "varray", name=name)
    for row in rows:
        _sub(array, "v", " " + "".join(number(value) for value in row) + " ")


def _generator(root: ET.Element, run: StandInRun) -> None:
    generator = _sub(root, "generator")
    for name, text in (
        ("program", "vasp "),  # parsers go by this name; the version says what wrote the file
        ("version", f"{run.version}  "),
        ("subversion", f"{run.what}; electronic steps, bands and DOS are made up "),
        ("platform", "ASE "),
        ("date", f"{run.started:%Y %m %d} "),
        ("time", f"{run.started:%H:%M:%S} "),
    ):
        _sub(generator, "i", text, name=name, type="string")


def _structure(parent: ET.Element, run: StandInRun, name: str | None = None) -> None:
    atoms = run.given.atoms
    structure = _sub(parent, "structure", **({"name": name} if name else {}))
    crystal = _sub(structure, "crystal")
    _rows(crystal, "basis", atoms.cell.array)
    _sub(crystal, "i", f"{number(atoms.cell.volume)} ", name="volume")
    _rows(crystal, "rec_basis", atoms.cell.reciprocal().array)
    _rows(structure, "positions", atoms.get_scaled_positions(wrap=False))


def _kpoints(root: ET.Element, run: StandInRun) -> None:
    mesh = run.given.mesh
    kpoints = _sub(root, "kpoints")
    if mesh.divisions is not None:  # points that are listed in KPOINTS have no generation
        generation = _sub(kpoints, "generation", param=mesh.centring)
        _sub(generation, "v", "".join(f"{n:9d}" for n in mesh.divisions) + " ", type="int", name="divisions")
        _vector(generation, "usershift", mesh.shift)
        for axis, row in enumerate(np.diag(1 / np.array(mesh.divisions, dtype=float)), start=1):
            _vector(generation, f"genvec{axis}", row)
        even = np.array(mesh.divisions) % 2 == 0
        _vector(generation, "shift", np.where(even & (mesh.centring != "Gamma"), 0.5, 0.0) + mesh.shift)
    _rows(kpoints, "kpointlist", mesh.points)
    _rows(kpoints, "weights", mesh.weights[:, None])


def _vector(parent: ET.Element, name: str, values: Iterable[float]) -> None:
    _sub(parent, "v", "".join(number(value) for value in values) + " ", name=name)


def _parameters(root: ET.Element, run: StandInRun) -> None:
    parameters = _sub(root, "parameters")
    open_path: list[str] = []
    nodes = [parameters]
    for parameter, text in parameter_values(run.given):
        path = parameter.section.split("/") if parameter.section else []
        common = 0
        while common < min(len(path), len(open_path)) and path[common] == open_path[common]:
            common += 1
        del nodes[common + 1 :]
        for name in path[common:]:
            nodes.append(_sub(nodes[-1], "separator", name=name))
        open_path = path
        _value(nodes[-1], parameter.name, parameter.kind, text)


def _array(
    parent: ET.Element, dimensions: Iterable[str], fields: Iterable[tuple[str, str | None]], name: str | None = None
) -> ET.Element:
    """Add an ``<array>`` with its head; return its ``<set>``."""
    array = _sub(parent, "array", **({"name": name} if name else {}))
    for index, dimension in enumerate(dimensions, start=1):
        _sub(array, "dimension", dimension, dim=str(index))
    for text, kind in fields:
        _sub(array, "field", text, **({"type": kind} if kind else {}))
    return _sub(array, "set")


def _atominfo(root: ET.Element, run: StandInRun) -> None:
    species = run.given.species
    info = _sub(root, "atominfo")
    _sub(info, "atoms", f"{len(run.given.atoms):8d} ")
    _sub(info, "types", f"{len(species):8d} ")
    ions = _array(info, ["ion"], [("element", "string"), ("atomtype", "int")], "atoms")
    for index, kind in enumerate(species, start=1):
        for _ in range(kind.count):
            _cells(ions, f"{kind.element:2s}", f"{index:4d}")
    columns = [("atomspertype", "int"), ("element", "string"), ("mass", None), ("valence", None)]
    types = _array(info, ["type"], [*columns, ("pseudopotential", "string")], "atomtypes")
    for kind in species:
        mass, valence = number(kind.pomass_amu), number(kind.zval)
        _cells(types, f"{kind.count:4d}", f"{kind.element:2s}", mass, valence, f"  {kind.header:38s}")


def _cells(parent: ET.Element, *texts: str) -> None:
    row = _sub(parent, "rc")
    for text in texts:
        _sub(row, "c", text)


def _calculation(root: ET.Element, run: StandInRun) -> None:
    calculation = _sub(root, "calculation")
    energies = run.free_energies_eV
    for step, energy in enumerate(energies):
        scstep = _sub(calculation, "scstep")
        _sub(scstep, "time", "    0.00    0.00", name="dav")
        _sub(scstep, "time", "    0.00    0.00", name="total")
        # VASP writes the parts of the energy at the first and the last step only
        _energy(scstep, run, energy, parts=step in {0, len(energies) - 1})
    _structure(calculation, run)
    _rows(calculation, "forces", run.point.forces_eV_per_A)
    if run.stress_kB is not None:
        _rows(calculation, "stress", run.stress_kB)
    _energy(calculation, run, energies[-1] + run.pv_eV, parts=False)
    _sub(calculation, "time", "    0.00    0.00", name="totalsc")
    _eigenvalues(calculation, run)
    magnetization = _sub(calculation, "separator", name="orbital magnetization")
    _sub(magnetization, "v", "".join(number(0.0) for _ in range(3)), name="MAGDIPOLOUT")
    _dos(calculation, run)


def _energy(parent: ET.Element, run: StandInRun, energy: float, *, parts: bool) -> None:
    """Add ``<energy>``; the calculator's energy is not split, all of it stands in bandstr."""
    values = dict.fromkeys(ENERGY_PARTS, 0.0) if parts else {}
    if parts:
        values |= {"eentropy": -run.entropy_eV, "bandstr": run.without_entropy_eV(energy)}
    values |= {
        "e_fr_energy": energy,
        "e_wo_entrp": run.without_entropy_eV(energy),
        "e_0_energy": run.sigma_zero_eV(energy),
    }
    node = _sub(parent, "energy")
    for name, value in values.items():
        _sub(node, "i", f"{number(value)} ", name=name)


def _eigenvalues(calculation: ET.Element, run: StandInRun) -> None:
    eigenvalues = _sub(calculation, "eigenvalues")
    top = _array(eigenvalues, ["band", "kpoint", "spin"], [("eigene", None), ("occ", None)])
    for spin in range(run.given.spins):
        spin_set = _sub(top, "set", comment=f"spin {spin + 1}")
        for k, (energies, occupations) in enumerate(
            zip(run.bands.energies_eV, run.bands.occupations, strict=True), start=1
        ):
            k_set = _sub(spin_set, "set", comment=f"kpoint {k}")
            for energy, occupation in zip(energies, occupations, strict=True):
                _sub(k_set, "r", f"{energy:10.4f}{occupation:10.4f} ")


def _dos(calculation: ET.Element, run: StandInRun) -> None:
    dos, spins = _sub(calculation, "dos"), run.given.spins
    _sub(dos, "i", f"{number(run.bands.fermi_eV)} ", name="efermi")
    fields: list[tuple[str, str | None]] = [("energy", None), ("total", None), ("integrated", None)]
    top = _array(_sub(dos, "total"), ["gridpoints", "spin"], fields)
    states = 3 - spins  # per level: two without, one with spin
    for spin in range(spins):
        spin_set = _sub(top, "set", comment=f"spin {spin + 1}")
        for energy, density, total in zip(run.bands.grid_eV, run.bands.dos, run.bands.integrated_dos, strict=True):
            _sub(spin_set, "r", f"{energy:11.4f}{states * density:11.4f}{states * total:11.4f} ")
