"""Where a structure that is to be labelled comes from, and what its label is for: one typed record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms


class Split(StrEnum):
    """What a label is for."""

    TRAIN = "train"
    """It is trained on."""
    TEST = "test"
    """It is held out for ever."""
    REFERENCE = "reference"
    """An isolated atom, whose energy becomes a reference energy; never trained on."""
    CHECK = "check"
    """The potential is compared with it first; it is trained on once a check has failed."""


class Origin(StrEnum):
    """How a structure was made. Generators of one's own may use names of their own."""

    SEED_IDEAL = "seed_ideal"
    SEED_STRAINED = "seed_strained"
    SEED_RATTLED = "seed_rattled"
    SEED_PAIR = "seed_pair"
    SEED_PIECE = "seed_piece"
    ISOLATED_ATOM = "isolated_atom"
    DIMER = "dimer"
    HALTED = "halted"
    DUMPED = "dumped"
    THERMAL = "thermal"
    DISPLACEMENT = "displacement"
    VOLUME = "volume"
    SOFT_MODE = "soft_mode"
    CUTOUT = "cutout"
    CHECK = "check"
    PROPERTY = "property"
    GIVEN = "given"


#: What data sets call the frame of a single atom in a box (``config_type``).
ISOLATED = ("isolatedatom", "isolated_atom")
#: Names in ``atoms.info`` of the fields below, where they differ.
_NAMES = {"purpose": "property"}


@dataclass(frozen=True)
class Provenance:
    """
    Information of the loop about a structure besides its atoms.

    It travels in ``atoms.info`` under the names of the fields (``purpose`` as ``property``); nothing else reads or
    writes them there.

    Parameters
    ----------
    origin
        An :class:`Origin`, or a name of one's own.
    split
        What the label is for.
    purpose
        Of a cell for a property: which cell of which property of which crystal.
    cutout_of
        Index of the atom in the large cell that a cut-out was made around.
    n_core
        Number of atoms of a cut-out, its first ones, that are where they were in the large cell.
    stands_for
        Of a label whose structure the user gave several times: as how many labels it counts in a fit. None: as one.
    """

    origin: str = Origin.GIVEN
    split: Split = Split.TRAIN
    purpose: str | None = None
    cutout_of: int | None = None
    n_core: int | None = None
    stands_for: float | None = None

    @classmethod
    def of(cls, atoms: Atoms) -> Provenance:
        """
        Read the provenance of a structure; what is not known has the value it has by default.

        Raises
        ------
        InvalidInputError
            If ``split`` is none of those there are, or another entry is not of its type.
        """
        found: dict[str, Any] = {
            field.name: atoms.info[name]
            for field in fields(cls)
            if atoms.info.get(name := _NAMES.get(field.name, field.name)) is not None
        }
        what = f"the structure {atoms.get_chemical_formula()}"
        if "split" in found:
            if str(found["split"]) not in set(Split):
                raise InvalidInputError(
                    f"{what} has info['split'] = {found['split']!r}; {', '.join(Split)} are known. Rename the entry if "
                    "it is of another program"
                )
            found["split"] = Split(str(found["split"]))
        for name in ("origin", "purpose"):
            if name in found and not (isinstance(found[name], str) and found[name]):
                key = _NAMES.get(name, name)
                raise InvalidInputError(f"{what} has info['{key}'] = {found[name]!r}; a name is needed")
        for name in ("cutout_of", "n_core"):
            if name in found:
                found[name] = int(found[name])
        if "stands_for" in found:
            found["stands_for"] = float(found["stands_for"])
            if not (np.isfinite(found["stands_for"]) and found["stands_for"] >= 1):
                raise InvalidInputError(
                    f"{what} has info['stands_for'] = {found['stands_for']}, as how many labels it counts; give 1 or "
                    "more, or rename the entry"
                )
        return cls(**found)

    def mark(self, atoms: Atoms) -> Atoms:
        """Write it into a structure, in place of what was there; return the structure."""
        for name, value in asdict(self).items():
            key = _NAMES.get(name, name)
            atoms.info.pop(key, None)
            if value is not None:
                atoms.info[key] = str(value) if isinstance(value, StrEnum) else value
        return atoms


def mark(atoms: Atoms, **changes: Any) -> Atoms:
    """Change some fields of a structure's provenance; return the structure."""
    return replace(Provenance.of(atoms), **changes).mark(atoms)


def about_compositions(frames: Sequence[Atoms], whose: str) -> list[str]:
    """
    Say that the compositions of structures to train on do not tell the energies of their elements apart.

    Parameters
    ----------
    frames
        Structures; isolated atoms have the split "reference".
    whose
        How the line begins: "labels: their".

    Returns
    -------
    list of str
        One line; none for one element, where compositions differ enough, and where all isolated atoms are there.
    """
    elements = sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    alone = {str(atoms.symbols[0]) for atoms in frames if atoms.info.get("split") == Split.REFERENCE}
    if len(elements) < 2 or alone >= set(elements):
        return []
    trained = [atoms for atoms in frames if atoms.info.get("split") not in (Split.REFERENCE, Split.TEST)]
    counts = np.array([[list(atoms.symbols).count(e) for e in elements] for atoms in trained], dtype=float)
    if counts.size and np.linalg.matrix_rank(counts) == len(elements):
        return []
    missing = ", ".join(element for element in elements if element not in alone)
    told = (
        f"{whose} compositions do not tell the energies of {missing} apart, so the potential says nothing of the "
        "elements alone, or of other compositions; add the isolated atoms or labels of further compositions"
    )
    return [told]
