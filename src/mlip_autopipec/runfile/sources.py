"""Structures that `init` begins with: crystals by name, files, ids in the Materials Project."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import bulk as build_bulk
from ase.data import atomic_numbers, reference_states
from ase.formula import Formula
from pymatgen.core import Composition

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.exploration import check_structure
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.structures.periodicity import boxed, goes_on_along, heights_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

#: Crystals with a cubic conventional cell.
_CUBIC = frozenset("sc fcc bcc diamond rocksalt zincblende cesiumchloride fluorite".split())
_GIVE_CRYSTAL = (
    f"Give --crystal ({', '.join(sorted(_CUBIC))}, hcp, wurtzite, ...) and --a (lattice constant in A); or name a "
    "structure file instead of elements"
)


@dataclass(frozen=True)
class Source:
    """
    A structure as the run file will name it.

    Parameters
    ----------
    key
        ``bulk``, ``file`` or ``materials_project``.
    value
        What stands behind it.
    atoms
        The structure, not repeated.
    elements
        Of the atom types of a file that does not name them.
    """

    key: str
    value: Any
    atoms: Atoms
    elements: tuple[str, ...] = ()


def crystal_source(elements: Sequence[str], crystal: str | None, a: float | None) -> Source:
    """
    Name a crystal of some elements.

    Parameters
    ----------
    elements
        Symbols in the order in which ``ase.build.bulk`` wants them (``Mg``, ``O``); formulas like ``CaF2`` and
        lists like ``Mg,O`` will do.
    crystal
        Structure type; ASE's reference state of an element by default.
    a
        Lattice constant in A; that of ASE's reference state by default.
    """
    given = [word for one in elements for word in re.split(r"[,\s]+", one) if word]
    for word in given:
        _check_formula(word)
    name = "".join(given)
    state: dict[str, Any] = (reference_states[atomic_numbers[name]] if name in atomic_numbers else None) or {}
    asked, crystal = crystal, crystal or state.get("symmetry")
    if a is None and crystal == state.get("symmetry"):
        a = state.get("a")
    named = {"name": name, "crystalstructure": crystal, "a": a, "cubic": crystal in _CUBIC or None}
    arguments: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    try:
        atoms = build_bulk(**arguments)
    except Exception as error:
        if asked is None:
            raise InvalidInputError(f"which crystal is {name}? {_GIVE_CRYSTAL}") from error
        why = str(error).rstrip(".")
        raise InvalidInputError(f"no crystal '{asked}' can be made of {name}: {why}. {_GIVE_CRYSTAL}") from error
    return Source("bulk", arguments, atoms)


def _check_formula(word: str) -> None:
    try:
        unknown = set(Formula(word, strict=True)) - set(atomic_numbers)
        if unknown:
            raise ValueError(f"{unknown} are no elements")
    except ValueError as error:
        raise InvalidInputError(
            f"--element {word} is no element and no formula; give symbols, for instance -e Ni -e Al"
        ) from error


def formula_of(atoms: Atoms) -> str:
    """Return the formula of a compound as chemists write it: LiF, TiO2."""
    elements = set(atoms.get_chemical_symbols())
    if len(elements) == 1:  # pymatgen would say H2, and warn that argon has no electronegativity
        return elements.pop()
    return str(Composition(atoms.get_chemical_formula()).reduced_formula)


def plain_formula(formula: str) -> str:
    """Return a formula without parentheses, which a shell would want quoted in the name of a folder."""
    return "".join(f"{element}{'' if n == 1 else n}" for element, n in Formula(formula).count().items())


def named_source(key: str, value: str, folder: Path, elements: Sequence[str] = ()) -> Source:
    """Name a structure by file or by Materials Project id, read or fetched now; ``elements`` are those of its types."""
    from pathlib import Path

    path = Path(value) if key == "file" else None
    atoms = load_structure(folder, path, None, value if key == "materials_project" else None, elements).atoms
    try:
        check_structure(atoms)
    except InvalidInputError as error:
        raise InvalidInputError(f"{key.replace('_', ' ')} '{value}': {error}") from error
    atoms = boxed(atoms)
    return Source(key, value, atoms, tuple(elements))


def nearest_neighbour(atoms: Atoms) -> float:
    """Return the shortest distance between two atoms in A; 3 where there is none below 6."""
    return min(minimum_distances(atoms).values(), default=3.0)


def widest_repetitions(atoms: Atoms, max_atoms: int) -> tuple[int, int, int]:
    """Return the repetitions of the widest roughly cubic cell of at most ``max_atoms``; none along vacuum."""
    goes_on = goes_on_along(atoms)
    heights = [float(h) if on else np.inf for h, on in zip(heights_of(atoms.cell.array), goes_on, strict=True)]
    if not goes_on.any():
        return (1, 1, 1)
    best = (1, 1, 1)
    for width in np.arange(min(heights), 50.0, 0.1):
        repeat = tuple(max(1, math.ceil(width / height - 1e-6)) for height in heights)
        if len(atoms) * math.prod(repeat) > max_atoms:
            break
        best = repeat  # type: ignore[assignment]
    return best
