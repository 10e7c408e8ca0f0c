"""What a file of a structure says and its reader passes over: elements in a comment, atoms that are not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.cifs import about_cif
from mlip_autopipec.structures.electrons import CHARGE, MOMENTS, MULTIPLICITY
from mlip_autopipec.structures.molecule_files import (
    about_dlpoly,
    about_gromacs,
    about_molfile,
    about_pdb,
    about_turbomole,
    about_xyz,
)
from mlip_autopipec.structures.texts import text_of

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

#: Beginning of a file that is looked at, in characters.
_HEAD = 200_000
#: An occupancy from here on is 1 as files round it.
_FULL = 0.99
#: Units of LAMMPS whose lengths are Angstrom.
_IN_ANGSTROM = ("metal", "real")


def about_file(path: Path, found: str, atoms: Atoms) -> list[str]:
    """
    Return what there is to say of a file beside its structure.

    Parameters
    ----------
    path
        Of the file.
    found
        Its format, by ASE's name.
    atoms
        The structure that was read. A charge that its reader passes over is set (``info["charge"]``).

    Raises
    ------
    InvalidInputError
        What the file says makes another structure than the one that was read.
    """
    look = _LOOKS.get(found)
    return [] if look is None else look(text_of(path, _HEAD), atoms)


def _poscar(text: str, atoms: Atoms) -> list[str]:
    """Say that the elements are those of the comment, where there is no line of elements."""
    lines = text.splitlines()
    if len(lines) < 6 or not lines[5].split() or not all(word.isdigit() for word in lines[5].split()):
        _refuse_other_counts(lines)
        return _behind_coordinates(lines, len(atoms))
    elements = ", ".join(dict.fromkeys(atoms.symbols))
    told = (
        f"it has no line of elements (VASP 4): {elements} are taken from its first line, '{lines[0].strip()[:60]}', or "
        "a POTCAR beside it; if that is wrong, write the elements above the numbers of atoms"
    )
    return [told]


def _behind_coordinates(lines: list[str], n_atoms: int) -> list[str]:
    """Say that numbers behind the coordinates of a POSCAR (VASP 5) are not used: moments stand there in some files."""
    selective = lines[7:8] and lines[7].strip()[:1] in ("S", "s")
    begin = 9 if selective else 8
    for index, line in enumerate(lines[begin : begin + n_atoms]):
        words = re.split(r"[!#]", line)[0].split()[6 if selective else 3 :]
        if any(re.fullmatch(r"[-+]?\d*\.?\d+", word) and float(word) for word in words):
            told = (
                f"what stands behind its coordinates is not used ('{' '.join(words)[:30]}', atom {index}); if it is "
                f"magnetic moments, ASE's name is {MOMENTS}, a column of extxyz"
            )
            return [told]
    return []


def _refuse_other_counts(lines: list[str]) -> None:
    """Refuse a POSCAR with more names of elements than numbers of atoms, or fewer."""
    if len(lines) < 7:
        return
    names, counts = (re.split(r"[!#]", line)[0].split() for line in lines[5:7])
    if len(names) != len(counts) and all(word.isdigit() for word in counts):
        raise InvalidInputError(
            f"it names {len(names)} elements ({' '.join(names)}) and gives {len(counts)} numbers of atoms "
            f"({' '.join(counts)}); give one for each"
        )


def _lammps(text: str, _: Atoms) -> list[str]:
    """Refuse a file of LAMMPS that says that its lengths are not in Angstrom."""
    said = re.search(r"^ITEM: UNITS\s+(\w+)", text, re.MULTILINE) or re.match(r".*\bunits *= *(\w+)", text)
    if said is None or said[1] in _IN_ANGSTROM:
        return []
    raise InvalidInputError(
        f"its units are '{said[1]}', and lengths are read in Angstrom; write it with units metal, or as extxyz"
    )


def _espresso_in(text: str, atoms: Atoms) -> list[str]:
    """Take over charge and total magnetization of an input of Quantum ESPRESSO."""
    text = re.sub(r"!.*", "", text)
    if (charge := re.search(r"\btot_charge\s*=\s*([-+.\dDdEe]+)", text)) and _real(charge[1]):
        atoms.info[CHARGE] = _real(charge[1])
    if (unpaired := re.search(r"\btot_magnetization\s*=\s*([-+.\dDdEe]+)", text)) and _real(unpaired[1]) > 0:
        atoms.info[MULTIPLICITY] = _real(unpaired[1]) + 1
    if MOMENTS not in atoms.arrays or not atoms.arrays.pop(MOMENTS).any():
        return []
    told = (
        "its starting_magnetization is not used: it is a share of the valence electrons of a species, and its reader "
        "keeps one for an element, so that an antiferromagnet would become a ferromagnet. Give the moments in Bohr "
        "magnetons (initial_magmoms of extxyz)"
    )
    return [told]


def _abinit_in(text: str, atoms: Atoms) -> list[str]:
    """Take over the charge of an input of ABINIT."""
    told = re.search(r"^\s*(?:cellcharge|charge)\s+([-+.\dDdEe]+)", text, re.MULTILINE)
    if told and _real(told[1]):
        atoms.info[CHARGE] = _real(told[1])
    return []


def _real(word: str) -> float:
    return float(re.sub("[dD]", "e", word))


def _res(text: str, _: Atoms) -> list[str]:
    """Refuse sites of a SHELX file that are partly occupied, and symmetry, which its reader passes over."""
    lattice = re.search(r"^LATT\s+(-?\d+)", text, re.MULTILINE)
    if re.search(r"^SYMM\s", text, re.MULTILINE) or (lattice and lattice[1] != "-1"):
        raise InvalidInputError(
            "it has symmetry (LATT, SYMM) that is not applied: the atoms it holds are a part of the cell. Write all "
            "of them, with LATT -1 and without SYMM, or a CIF"
        )
    for line in text.splitlines():
        words = line.split()
        site = len(words) >= 6 and re.match(r"[A-Z][a-z]?\d*$", words[0]) and words[1].isdigit()
        if not site or words[0] in ("CELL", "ZERR", "UNIT", "SFAC"):
            continue
        # SHELX adds 10 to what is not refined; a special position of high symmetry has less than 1 as well
        occupancy = float(words[5]) % 10
        if 0 < occupancy < _FULL:
            raise InvalidInputError(
                f"the site {words[0]} has an occupancy of {occupancy:g}; MD and the oracle need one whole atom on "
                "every site. Make an ordered cell first, or write 1 where it is that of a special position"
            )
    return []


_LOOKS = {
    "vasp": _poscar,
    "cif": about_cif,
    "proteindatabank": about_pdb,
    "mol": about_molfile,
    "sdf": about_molfile,
    "xyz": about_xyz,
    "extxyz": about_xyz,
    "turbomole": about_turbomole,
    "gromacs": about_gromacs,
    "dlp4": about_dlpoly,
    "res": _res,
    "lammps-data": _lammps,
    "lammps-dump-text": _lammps,
    "espresso-in": _espresso_in,
    "abinit-in": _abinit_in,
}
