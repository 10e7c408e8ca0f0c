"""INCAR tags that change what VASP's numbers mean: refused for labels, or no stress is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.oracle.refused import Rule, broken, one_of, other_than, switched_on

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Words of ALGO, as far as VASP reads them, that iterate electrons to self-consistency: Normal, VeryFast, Fast,
#: Conjugate, All, Damped.
_SELF_CONSISTENT = ("n", "v", "f", "c", "a", "d")
#: Those that begin alike and do not.
_OTHER_ALGO = ("none", "nothing", "chi", "acfdt", "crpa")
#: IALGO of the same kind: one-electron steps without self-consistency, tests of performance, exact diagonalisation.
_OTHER_IALGO = (-1, 0, 2, 3, 4, 90)
#: Lists with one value for each species of the POTCAR.
PER_SPECIES = ("LDAUU", "LDAUJ", "LDAUL", "VDW_C6", "VDW_R0", "VDW_ALPHA", "VDW_C6AU", "VDW_R0AU")


def _not_self_consistent(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    word = ("t" if value else "f") if isinstance(value, bool) else str(value).strip().lower()
    return not word.startswith(_SELF_CONSISTENT) or word.startswith(_OTHER_ALGO)


def _moves(value: Any, settings: Mapping[str, Any]) -> bool:
    # NSW without a way to move is one calculation
    return float(value) > 1 or (float(value) == 1 and float(settings.get("IBRION", 0)) != -1)


def _dipole_of_the_energy_alone(value: Any, settings: Mapping[str, Any]) -> bool:
    return switched_on(value) and not switched_on(settings.get("LDIPOL", False))


def _constrains(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    values = value if isinstance(value, (list, tuple)) else str(value).split()
    return any(not switched_on(item) for item in values)


def _other_weights(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    values = value if isinstance(value, (list, tuple)) else str(value).split()
    return any(float(item) != 1 for item in values)


def _at_least(bound: float) -> Any:
    return lambda value, _: float(value) >= bound


_AT_REST = "set NSW = 0 and IBRION = -1"
_FIELD = "a potential of positions alone cannot hold an external field"
#: A tag that is not here is part of the key of a label, or does not decide its numbers
#: (:data:`~mlip_autopipec.oracle.incar.NOT_PHYSICS`).
RULES = (
    Rule(
        "PSTRESS",
        switched_on,
        "VASP adds P V to the energy",
        "leave it out (the pressure of MD is given to the walkers)",
    ),
    Rule("SCALEE", other_than(1), "energy and forces are scaled by it"),
    Rule("NSW", _moves, "the atoms move, and energy and forces would be of another structure", _AT_REST),
    Rule("IBRION", _at_least(4), "VASP displaces atoms, or is told to by another program", _AT_REST),
    Rule("IMAGES", switched_on, "VASP computes a chain of images"),
    Rule("VCAIMAGES", _at_least(0), "energies and forces of two calculations are mixed"),
    Rule("LATTICE_CONSTRAINTS", _constrains, "components of the stress are set to zero"),
    Rule("ML_LMLFF", switched_on, "energy and forces are those of VASP's own machine-learned potential"),
    Rule("ICHARG", _at_least(10), "the density is kept, so the energy is not the one of the ground state", "set 2"),
    Rule("ALGO", _not_self_consistent, "the electrons are not iterated to self-consistency", "set Normal or All"),
    Rule("IALGO", one_of(*_OTHER_IALGO), "the electrons are not iterated to self-consistency", "set 38"),
    Rule("ISMEAR", one_of(-2, -3), "occupations are given, or several smearings are computed", "set 0"),
    Rule(
        "NELECT",
        lambda *_: True,
        "every cell would have this number of electrons, cells of any size and isolated atoms too",
        "leave it out: VASP takes the number of neutral atoms",
    ),
    Rule("I_CONSTRAINED_M", switched_on, "a penalty for other moments than the given ones is in the energy"),
    Rule("EFIELD", switched_on, _FIELD),
    Rule("EFIELD_PEAD", switched_on, _FIELD),
    Rule("LCALCEPS", switched_on, "VASP computes in finite electric fields"),
    Rule("OFIELD_A", switched_on, "an order field is part of the energy"),
    Rule("EFOR", switched_on, "external forces are added to the computed ones"),
    Rule("IDIPOL", _dipole_of_the_energy_alone, "it corrects the energy but not the forces", "set LDIPOL = True too"),
    Rule("LMONO", switched_on, "it corrects the energy but not the forces"),
    Rule("METAGGA", one_of("MBJ", "LMBJ"), "this potential has no energy whose derivative the forces are"),
    Rule("EXXOEP", switched_on, "forces are not the derivative of the energy"),
    Rule("VCA", _other_weights, "weighted atoms are computed, not those of the structure"),
    Rule("ICORELEVEL", one_of(2), "an atom with an excited core is computed"),
    *(
        Rule(f"PLUGINS/{name}", switched_on, "a Python plugin changes the numbers, and what it does is in no key")
        for name in ("FORCE_AND_STRESS", "LOCAL_POTENTIAL", "STRUCTURE", "OCCUPANCIES")
    ),
)


def refused_tags(
    incar: Mapping[str, Any], parameters: Mapping[str, Any] | None = None, n_species: int | None = None
) -> list[str]:
    """
    Return why labels are not computed with an INCAR, or not read from a run of it.

    Parameters
    ----------
    incar
        Upper-case tags and their values.
    parameters
        What VASP said it used, defaults filled in; None before the run.
    n_species
        Number of elements of the structure, to which lists of one value per species have to fit.

    Returns
    -------
    list of str
        One line for each tag; empty if there is none.
    """
    # NELECT, and IALGO beside ALGO, are among what VASP says it used whether they were set or not
    used = {key: value for key, value in (parameters or {}).items() if key not in ("NELECT", "IALGO")}
    reasons = broken(RULES, {**used, **incar})
    for key in PER_SPECIES if n_species is not None else ():
        values = incar.get(key)
        if isinstance(values, (list, tuple)) and len(values) != n_species:
            reasons.append(
                f"{key} = {' '.join(map(str, values))}: {len(values)} values for {n_species} species; name the "
                "elements of an LDAU tag ({'LDAUU': {'O': {'Fe': 4.0}}}), or use one maker for each set of elements"
            )
    return reasons


def stress_mode(incar: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> int:
    """
    Return ISIF as far as it decides the stress: 0 for none, 1 for its trace alone, 2 for all of it.

    Where neither says it, the default is VASP's: 0 for hybrid functionals and MD, else 2.

    Parameters
    ----------
    incar, parameters
        As for :func:`refused_tags`.
    """
    told = incar.get("ISIF", (parameters or {}).get("ISIF"))
    if told is None:
        hybrid, md = switched_on(incar.get("LHFCALC", False)), str(incar.get("IBRION", "")).strip() == "0"
        told = 0 if hybrid or md else 2
    return min(int(float(told)), 2)
