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
#: Points of the FFT grids along the vectors of the cell.
GRIDS = ("NGX", "NGY", "NGZ", "NGXF", "NGYF", "NGZF")
#: Tags that VASP says it used whether they were set or not, and whose values mean something only if they were.
_OF_THE_CELL = frozenset(["NELECT", "IALGO", "ENMAX", "EFERMI", "ZVAL", "NELM", *GRIDS])
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


def _below(bound: float) -> Any:
    return lambda value, _: float(value) < bound


def _no_accuracy(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    return not 0 < float(value) <= LOOSEST_EDIFF


def _is_number(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_low(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    return str(value).strip().lower().startswith("l")


#: Largest EDIFF in eV of a label. VASP's own default is a tenth of it.
LOOSEST_EDIFF = 1e-3
#: No POTCAR is made for a cutoff (eV) as low as this: the lowest ENMAX of VASP's library is near 90 eV (Tl).
_LOWEST_CUTOFF = 85.0
#: Electronic steps, of which the first few are not self-consistent (NELMDL).
_FEWEST_STEPS = 10
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
    *(
        Rule(name, switched_on, "energy and forces are those of VASP's own machine-learned potential")
        for name in ("ML_LMLFF", "ML_FF_LMLFF")
    ),
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
    Rule("EDIFF", _no_accuracy, "forces are noise of the electrons' iterations, or these never end", "set 1e-6"),
    Rule("NELM", _below(_FEWEST_STEPS), "the electrons cannot get to self-consistency", "leave it out (60), or more"),
    Rule("ENCUT", _below(_LOWEST_CUTOFF), "no POTCAR is made for so few plane waves", "set 1.3 times their ENMAX"),
    Rule("ENMAX", switched_on, "an old name of ENCUT, under which the cutoff is not looked at", "call it ENCUT"),
    Rule("PREC", _is_low, "the grids cut off a part of the density: forces and stress are wrong", "set Accurate"),
    *(
        Rule(name, switched_on, "cells of any size would have this one grid: too coarse for the larger ones")
        for name in GRIDS
    ),
    *(Rule(name, switched_on, "a part of the k-points is left out") for name in ("ODDONLY", "EVENONLY")),
    Rule("EFERMI", _is_number, "electrons are filled up to a level that is given, the same for all cells"),
    Rule("ZVAL", lambda *_: True, "atoms have another number of electrons than their POTCAR says"),
    Rule("LSPIRAL", switched_on, "a spin spiral is computed, not the cell"),
    Rule("ICHAIN", switched_on, "forces are those of a search for saddle points, not of the energy"),
    Rule("LPARD", switched_on, "the density of an earlier run is taken apart, and no energy computed"),
    Rule("ELPH_RUN", switched_on, "electrons and phonons are computed, not the structure"),
    Rule("EFIELD", switched_on, _FIELD),
    Rule("BEXT", switched_on, _FIELD),
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
    used = {key: value for key, value in (parameters or {}).items() if key not in _OF_THE_CELL}
    reasons = broken(RULES, {**used, **incar})
    for key in PER_SPECIES if n_species is not None else ():
        values = incar.get(key)
        if isinstance(values, (list, tuple)) and len(values) != n_species:
            reasons.append(
                f"{key} = {' '.join(map(str, values))}: {len(values)} values for {n_species} species; name the "
                "elements of an LDAU tag ({'LDAUU': {'Fe': 4.0}}), or use one maker for each set of elements"
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
