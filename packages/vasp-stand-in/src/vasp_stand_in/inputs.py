"""Read POSCAR, INCAR, KPOINTS and POTCAR the way VASP does, and refuse what VASP or the stand-in refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from vasp_stand_in.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

# VASP's value where INCAR names none; https://www.vasp.at/wiki
DEFAULT_KSPACING = 0.5
STATIC_IBRION = (-1, 0, 1, 2, 3)  # with NSW = 0 none of these moves an atom
UNSUPPORTED_SWITCHES = ("LSORBIT", "LNONCOLLINEAR", "LEPSILON", "LOPTICS", "LHFCALC", "LCHIMAG", "LCALCPOL", "LCALCEPS")


@dataclass(frozen=True)
class Incar:
    """The tags of an INCAR as written, upper-case name to text."""

    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Incar:
        """Read INCAR: ``#`` and ``!`` begin comments, ``;`` separates tags, a backslash continues a line."""
        tags: dict[str, str] = {}
        text = re.sub(r"\\[ \t]*\n", " ", path.read_text())
        for line in text.splitlines():
            for part in re.split(r"[#!]", line)[0].split(";"):
                name, equals, value = part.partition("=")
                if equals:
                    tags.setdefault(name.strip().upper(), value.strip())  # VASP takes the first of two
        return cls(tags)

    def text(self, name: str, default: str = "") -> str:
        """Return a tag's text."""
        return self.tags.get(name, default)

    def real(self, name: str, default: float) -> float:
        """Return a tag as a number; Fortran's D exponent is understood."""
        return float(self.tags[name].split()[0].lower().replace("d", "e")) if name in self.tags else default

    def integer(self, name: str, default: int) -> int:
        """Return a tag as an integer."""
        return int(self.real(name, default))

    def logical(self, name: str, default: bool = False) -> bool:
        """Return a tag as a Fortran logical."""
        return is_true(self.tags[name]) if name in self.tags else default

    def reals(self, name: str) -> list[float] | None:
        """Return a tag as a list; ``3*0.6`` repeats."""
        if name not in self.tags:
            return None
        values: list[float] = []
        for word in self.tags[name].split():
            count, star, value = word.partition("*")
            values += [float(value)] * int(count) if star else [float(word)]
        return values


def is_true(text: str) -> bool:
    """Tell whether Fortran would read a text as true."""
    return text.strip().lstrip(".")[:1].upper() == "T"


@dataclass(frozen=True)
class Species:
    """One block of POSCAR with its POTCAR."""

    element: str
    count: int
    header: str  # first line of the POTCAR, as VASP prints it
    titel: str
    zval: float
    enmax_eV: float
    eaug_eV: float
    pomass_amu: float


@dataclass(frozen=True)
class Mesh:
    """Irreducible k-points: fractional (n, 3), weights (n,) that add up to 1, and how they came about."""

    points: np.ndarray
    weights: np.ndarray
    divisions: tuple[int, int, int] | None  # None for points that are listed in KPOINTS
    centring: str  # "Gamma", "Monkhorst-Pack" or "listed"
    shift: tuple[float, float, float]
    source: str  # "INCAR" or "KPOINTS"


@dataclass(frozen=True)
class VaspInput:
    """All that a run reads; atoms stand in POSCAR's order, positions wrapped into the cell as VASP prints them."""

    comment: str
    atoms: Atoms
    species: tuple[Species, ...]
    incar: Incar
    mesh: Mesh

    @property
    def spins(self) -> int:
        """ISPIN."""
        return self.incar.integer("ISPIN", 1)

    @property
    def electrons(self) -> float:
        """NELECT of INCAR, else the sum of ZVAL."""
        return self.incar.real("NELECT", sum(kind.zval * kind.count for kind in self.species))

    @property
    def encut_eV(self) -> float:
        """ENCUT of INCAR, else the largest ENMAX."""
        return self.incar.real("ENCUT", max(kind.enmax_eV for kind in self.species))

    @property
    def bands(self) -> int:
        """NBANDS of INCAR, else VASP's default before it rounds to a multiple of the band groups."""
        half = int((self.electrons + 2) / 2) + max(len(self.atoms) // 2, 3)
        if self.spins == 2:
            moments = self.incar.reals("MAGMOM") or [1.0] * len(self.atoms)
            half += (max(1, round(abs(sum(moments)))) + 1) // 2
        least = max(half, int(0.6 * self.electrons))
        return self.incar.integer("NBANDS", least)


def read_input(folder: Path) -> VaspInput:
    """
    Read the four input files of a folder.

    Raises
    ------
    InvalidInputError
        If one is missing, if they contradict each other, or if more than a static calculation is asked for.
    """
    for name in ("INCAR", "POSCAR", "POTCAR"):
        if not (folder / name).is_file():
            raise InvalidInputError(f"{name} is missing in {folder.resolve()}; VASP needs INCAR, POSCAR and POTCAR")
    incar = Incar.read(folder / "INCAR")
    _refuse_what_is_not_static(incar)
    comment, elements, counts, atoms = read_poscar(folder / "POSCAR")
    species = _read_potcar(folder / "POTCAR", elements, counts)
    return VaspInput(comment, atoms, species, incar, read_mesh(folder, atoms, incar))


def read_poscar(path: Path) -> tuple[str, list[str], list[int], Atoms]:
    """
    Read POSCAR: comment, element and number of atoms of each block, and the atoms wrapped into the cell.

    Own code, since ase.io and pymatgen.io.vasp take longer to import than a label to compute.
    """
    lines = path.read_text().splitlines()
    scale = np.array(lines[1].split(), dtype=float)
    cell = np.array([line.split()[:3] for line in lines[2:5]], dtype=float)
    if scale[0] < 0:  # a negative scale is the volume
        scale = (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
    names, numbers = lines[5].split(), lines[6].split()
    if not names[0][0].isalpha():
        raise InvalidInputError(
            f"{path} has no line with element names (line 6 is {lines[5]!r}); write VASP 5's format"
        )
    elements, counts = [re.split(r"[_/]", name)[0] for name in names], [int(number) for number in numbers]
    first = 8 if lines[7].strip()[:1].upper() == "S" else 7  # selective dynamics: nothing moves anyway
    rows = np.array([line.split()[:3] for line in lines[first + 1 : first + 1 + sum(counts)]], dtype=float)
    if len(rows) != sum(counts) or not counts or abs(np.linalg.det(cell)) < 1e-6:
        raise InvalidInputError(f"{path} holds {len(rows)} of {sum(counts)} atoms in a cell of {cell.tolist()}")
    symbols = [element for element, count in zip(elements, counts, strict=True) for _ in range(count)]
    atoms = Atoms(symbols, cell=cell * scale, pbc=True)
    if lines[first].strip()[:1].upper() in {"C", "K"}:
        atoms.positions = rows * scale
        rows = atoms.get_scaled_positions(wrap=False)
    wrapped = rows % 1.0
    atoms.set_scaled_positions(np.where(wrapped >= 1.0, 0.0, wrapped))  # -1e-17 wraps to 1.0
    return lines[0].strip(), elements, counts, atoms


def _refuse_what_is_not_static(incar: Incar) -> None:
    nsw, ibrion = incar.integer("NSW", 0), incar.integer("IBRION", -1)
    if nsw > 0:
        raise InvalidInputError(
            f"NSW = {nsw} in INCAR: the stand-in moves no atoms; set NSW = 0 (a static calculation)"
        )
    if ibrion not in STATIC_IBRION:
        raise InvalidInputError(f"IBRION = {ibrion} in INCAR asks for more than a static calculation; set IBRION = -1")
    for name in UNSUPPORTED_SWITCHES:
        if incar.logical(name):
            raise InvalidInputError(f"{name} = {incar.text(name)} in INCAR is not available in the stand-in; remove it")


def _read_potcar(path: Path, elements: list[str], counts: list[int]) -> tuple[Species, ...]:
    """Match POTCAR block by block with the species of POSCAR."""
    blocks = [block for block in path.read_text().split("End of Dataset") if block.strip()]
    found = [_potcar_element(block) for block in blocks]
    if found != elements:
        raise InvalidInputError(
            f"POTCAR holds {' '.join(found) or 'nothing'} but POSCAR lists {' '.join(elements)}; "
            "POTCAR has to follow the species of POSCAR in number and order"
        )
    species = []
    for element, count, block in zip(elements, counts, blocks, strict=True):
        titel = _potcar_field(block, "TITEL", r"(.*)")
        keys = ("ZVAL", "ENMAX", "EAUG", "POMASS")
        zval, enmax, eaug, pomass = (float(_potcar_field(block, key, r"([\d.]+)")) for key in keys)
        species.append(Species(element, count, block.strip().splitlines()[0].strip(), titel, zval, enmax, eaug, pomass))
    return tuple(species)


def _potcar_field(block: str, key: str, pattern: str) -> str:
    match = re.search(rf"\b{key}\s*=\s*{pattern}", block)
    if match is None:
        raise InvalidInputError(f"POTCAR has no {key} in the block that begins with {block.strip()[:40]!r}")
    return match[1].strip()


def _potcar_element(block: str) -> str:
    return _potcar_field(block, "VRHFIN", r"([A-Za-z]+)")


def read_mesh(folder: Path, atoms: Atoms, incar: Incar) -> Mesh:
    """
    Build the k-points of KPOINTS, or of KSPACING where there is no KPOINTS, reduced by the symmetry of ISYM.

    KSPACING is in 2 pi / Angstrom units of VASP: ``N_i = max(1, ceil(2 pi |b_i| / KSPACING))``.
    """
    path = folder / "KPOINTS"
    if not path.is_file():
        lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
        spacing = incar.real("KSPACING", DEFAULT_KSPACING)
        divisions = np.maximum(1, np.ceil(lengths / spacing - 1e-8)).astype(int)
        centring = "Gamma" if incar.logical("KGAMMA", default=True) else "Monkhorst-Pack"
        return _reduced_mesh(atoms, incar, divisions, centring, np.zeros(3), "INCAR")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    number, style = int(lines[1].split()[0]), lines[2].strip()[:1].upper()
    if number == 0 and style in "GM":
        divisions = np.array(lines[3].split()[:3], dtype=int)
        shift = np.array(lines[4].split()[:3], dtype=float) if len(lines) > 4 else np.zeros(3)
        centring = "Gamma" if style == "G" else "Monkhorst-Pack"
        return _reduced_mesh(atoms, incar, divisions, centring, shift, "KPOINTS")
    if number > 0 and style in "RFDC" and not style.startswith("L"):
        rows = np.array([line.split()[:4] for line in lines[3 : 3 + number]], dtype=float)
        points = rows[:, :3] @ atoms.cell.array.T if style == "C" else rows[:, :3]
        return Mesh(points, rows[:, 3] / rows[:, 3].sum(), None, "listed", (0.0, 0.0, 0.0), "KPOINTS")
    raise InvalidInputError(
        f"KPOINTS of style {lines[2]!r} with {number} points is not available in the stand-in; "
        "use Gamma, Monkhorst-Pack or a list of points with weights"
    )


def _reduced_mesh(
    atoms: Atoms, incar: Incar, divisions: np.ndarray, centring: str, shift: np.ndarray, source: str
) -> Mesh:
    half = np.where((divisions % 2 == 0) & (centring != "Gamma"), 0.5, 0.0) + shift
    steps = np.stack(np.meshgrid(*(np.arange(n) for n in divisions), indexing="ij"), axis=-1).reshape(-1, 3)
    points = (steps + half) / divisions
    points -= np.round(points - 1e-9)
    representative = _representatives(atoms, incar, steps, divisions, half)
    chosen, members = np.unique(representative, return_counts=True)
    return Mesh(
        points[chosen],
        members / len(points),
        (int(divisions[0]), int(divisions[1]), int(divisions[2])),
        centring,
        (float(shift[0]), float(shift[1]), float(shift[2])),
        source,
    )


def _representatives(
    atoms: Atoms, incar: Incar, steps: np.ndarray, divisions: np.ndarray, half: np.ndarray
) -> np.ndarray:
    """Index of the first point of each point's orbit: ISYM < 0 nothing, 0 k = -k, > 0 the crystal's symmetry."""
    index = np.arange(len(steps))
    isym = incar.integer("ISYM", 2)
    if isym < 0:
        return index
    rotations = np.eye(3, dtype=int)[None]
    if isym > 0:
        import spglib

        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        if (found := spglib.get_symmetry(cell, symprec=incar.real("SYMPREC", 1e-5))) is not None:
            rotations = np.unique(np.asarray(found["rotations"]), axis=0)
    representative = index.copy()
    for rotation in np.concatenate([rotations, -rotations]):
        # a rotation R of positions acts on k as its inverse transpose; over the whole group R^T will do
        moved = ((steps + half) / divisions) @ rotation * divisions - half
        whole = np.rint(moved).astype(int)
        if np.abs(moved - whole).max() > 1e-6:
            continue  # the mesh does not have this symmetry
        image = np.ravel_multi_index(tuple((whole % divisions).T), tuple(divisions))
        representative = np.minimum(representative, image)
    return representative
