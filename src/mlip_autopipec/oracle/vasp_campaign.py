"""What a campaign asks of makers of VASP before anything is computed: refused, or said."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.refused import crystal_of, refuse, switched_on
from mlip_autopipec.oracle.vasp import asked_with_doubts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atomate2.vasp.jobs.base import BaseVaspMaker

    from mlip_autopipec.oracle.record import OracleRecord

logger = logging.getLogger(__name__)

#: What isolated atoms have in common with the labels, whose energies theirs are taken off.
_OF_BOTH = (
    "GGA METAGGA LHFCALC AEXX HFSCREEN IVDW LUSE_VDW LVDW AGGAC AGGAX ALDAC LSORBIT ENCUT ENAUG LASPH LSOL GGA_COMPAT"
).split()
_HUBBARD = ("LDAUU", "LDAUJ")


def check_vasp(maker: BaseVaspMaker, elements: Sequence[str]) -> None:
    """
    Refuse a maker whose INCAR gives other numbers than those of a label, before a campaign.

    Parameters
    ----------
    maker
        An atomate2 maker of VASP.
    elements
        Of the campaign; the INCAR is made for a crystal of them.

    Raises
    ------
    InvalidInputError
        As :func:`~mlip_autopipec.oracle.vasp.asked_of_vasp`; or if the U of an element is another one where
        it is alone.
    """
    found = _asked_of_crystal(maker, elements)
    together = {} if found is None else _hubbard(found[0])
    if not together:
        return
    for element in elements:
        alone = _asked_of_crystal(maker, [element])
        before, after = together.get(element, (0.0, 0.0)), (0.0, 0.0)
        if alone is not None:
            after = _hubbard(alone[0]).get(element, after)
        if before != after:
            both = max(before[0], after[0])
            told = (
                f"LDAUU of {element} is {before[0]:g} eV in {''.join(elements)} and {after[0]:g} eV in a cell of "
                f"{element} alone (LDAUJ {before[1]:g} and {after[1]:g}): labels of both, and of the isolated atom, "
                f"are of two levels of theory; give one value to the element: {{'LDAUU': {{'{element}': {both:g}}}}}, "
                "and LDAUL and LDAUJ alike"
            )
            refuse("VASP", [told], "this INCAR")


def check_vasp_atoms(maker: BaseVaspMaker, atom_maker: BaseVaspMaker, elements: Sequence[str]) -> None:
    """
    Refuse isolated atoms of another level of theory than the labels.

    Parameters
    ----------
    maker, atom_maker
        Of labels, and of isolated atoms.
    elements
        Of the campaign.

    Raises
    ------
    InvalidInputError
        Names the settings that differ.
    """
    different = []
    for element in elements:
        both = [_asked_of_crystal(one, [element]) for one in (maker, atom_maker)]
        if both[0] is None or both[1] is None:
            continue
        of_label, of_atom = both[0][0], both[1][0]
        first, other = (record.settings or {} for record in (of_label, of_atom))
        different += [
            f"{key} is {first.get(key, 'not set')} for labels and {other.get(key, 'not set')} for isolated atoms"
            for key in _OF_BOTH
            if first.get(key) != other.get(key) and (switched_on(first.get(key, 0)) or switched_on(other.get(key, 0)))
        ]
        if _hubbard(of_label) != _hubbard(of_atom):
            different.append(f"U and J of {element} differ between labels and isolated atoms")
        potentials = [(record.potentials or {}).get(element) for record in (of_label, of_atom)]
        if potentials[0] != potentials[1]:
            different.append(f"the POTCAR is {potentials[0]} for labels and {potentials[1]} for isolated atoms")
    if different:
        cure = "give both makers the same incar, potcar and potcar_functional"
        refuse("VASP", [f"{'; '.join(dict.fromkeys(different))}; {cure}"], "these makers")


def doubts_of_vasp(maker: BaseVaspMaker, elements: Sequence[str]) -> list[str]:
    """
    Return what a user should know of the INCAR of a maker.

    Parameters
    ----------
    maker
        An atomate2 maker of VASP.
    elements
        Of the campaign; the INCAR is made for a crystal of them.

    Returns
    -------
    list of str
        One line for each tag that makes labels noisy, or right for some materials alone
        (:mod:`~mlip_autopipec.oracle.vasp_doubts`), or with which they lack a stress.
    """
    try:
        found = _asked_of_crystal(maker, elements)
    except InvalidInputError:  # check_vasp refuses it
        return []
    if found is None:
        return []
    asked, said = found
    if "ISIF" in (asked.settings or {}):
        said = ["with its ISIF VASP computes no stress, or the trace alone: labels are without it; set 2", *said]
    return said


def _hubbard(record: OracleRecord) -> dict[str, tuple[float, float]]:
    """Return U and J in eV of each element that has one."""
    settings: dict[str, Any] = dict(record.settings or {})
    if not switched_on(settings.get("LDAU", False)):
        return {}
    species = list(record.potentials or {})
    columns = [settings.get(key) or [0] * len(species) for key in _HUBBARD]
    if any(not isinstance(column, list) or len(column) != len(species) for column in columns):
        return {}
    values = {name: (float(u), float(j)) for name, u, j in zip(species, *columns, strict=True)}
    return {name: value for name, value in values.items() if any(value)}


def _asked_of_crystal(maker: BaseVaspMaker, elements: Sequence[str]) -> tuple[OracleRecord, list[str]] | None:
    """Return what VASP would be asked for of a crystal of some elements; None where that cannot be made."""
    try:
        return asked_with_doubts(maker, crystal_of(elements))
    except InvalidInputError:
        raise
    except Exception:  # an input set may want what this crystal lacks; each label is looked at again
        logger.debug("no INCAR was made to look at", exc_info=True)
        return None
