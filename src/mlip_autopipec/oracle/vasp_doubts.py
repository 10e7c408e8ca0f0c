"""INCAR tags that make labels noisy, or right for some materials alone: said, and left to the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymatgen.core import Element

from mlip_autopipec.oracle.refused import Rule, broken, one_of, switched_on

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

#: A pseudopotential: its name, and the lowest and the recommended cutoff in eV.
Cutoffs = tuple[str, float, float]
#: Share of ENMAX from which on the stress hardly lacks what more plane waves would add (VASP's manual).
_FOR_STRESS = 1.3
#: No POTCAR of these is for less than this cutoff in eV: the softest have an ENMAX of 269 to 290 eV, and ENMIN above.
_HARD, _LOWEST_OF_HARD = frozenset(["B", "C", "N", "O", "F"]), 200.0
#: Elements whose solids, or atoms in compounds, mostly have moments.
_MAGNETIC = frozenset("Cr Mn Fe Co Ni Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb U Np Pu".split())
#: Forces are as good as EDIFF, in eV, lets them be; below the second VASP's own digits end.
_LOOSE_EDIFF, _TIGHTEST_EDIFF = 1e-5, 1e-9
#: 1/A, eV and A.
_COARSE_KSPACING, _WIDE_SIGMA, _LOOSE_SYMPREC = 0.4, 0.2, 1e-4


def _above(bound: float) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, _: float(value) > bound


def _begins(*beginnings: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, _: str(value).strip().lower().startswith(beginnings)


def _off(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    return not switched_on(value)


def _moves_in_symmetry(value: Any, settings: Mapping[str, Any]) -> bool:
    return float(value) > 0 and str(settings.get("IBRION", "")).strip() == "0"


def _beyond_gga(settings: Mapping[str, Any]) -> bool:
    words = ("", "--", "none", "f", "false")
    meta = str(settings.get("METAGGA", "")).strip().strip(".").lower() not in words
    return meta or any(switched_on(settings.get(key, False)) for key in ("LHFCALC", "LDAU"))


def _lacks_spheres(value: Any, settings: Mapping[str, Any]) -> bool:
    return not switched_on(value) and _beyond_gga(settings)


def _lacks_u(value: Any, settings: Mapping[str, Any]) -> bool:
    return (
        switched_on(value) and not switched_on(settings.get("LDAUU", 0)) and not switched_on(settings.get("LDAUJ", 0))
    )


def _u_without_effect(value: Any, settings: Mapping[str, Any]) -> bool:
    return switched_on(value) and not switched_on(settings.get("LDAU", False))


def _slow_for_hybrids(value: Any, settings: Mapping[str, Any]) -> bool:
    return _begins("f", "v")(value, settings) and switched_on(settings.get("LHFCALC", False))


def _counts_twice(value: Any, settings: Mapping[str, Any]) -> bool:
    """Tell whether a nonlocal correlation is added to one of the gradient, which it replaces."""
    if not switched_on(value):
        return False
    of_gradient = str(settings.get("GGA", "")).strip().upper() in ("OR", "BO", "MK", "ML", "RE", "CX", "PE")
    return of_gradient and not _beyond_gga(settings) and switched_on(settings.get("AGGAC", 1))


def _two_dispersions(value: Any, settings: Mapping[str, Any]) -> bool:
    return switched_on(value) and any(switched_on(settings.get(key, False)) for key in ("LUSE_VDW", "LVDW"))


_NOISE = "set Accurate"
#: In the order of the table of the documents.
DOUBTS = (
    Rule("EDIFF", _above(_LOOSE_EDIFF), "forces carry noise of meV/A and more", "set 1e-6"),
    Rule(
        "EDIFF",
        lambda value, _: float(value) < _TIGHTEST_EDIFF,
        "VASP's digits end before, so NELM is reached",
        "set 1e-6",
    ),
    Rule("PREC", _begins("n", "m", "s"), "forces are not free of what the grid does to them", _NOISE),
    Rule(
        "LREAL", switched_on, "energies are off by meV/atom, differently in each cell, most in small ones", "set False"
    ),
    Rule(
        "ROPT",
        switched_on,
        "energies follow how projectors are cut in real space",
        "set LREAL = False, and leave it out",
    ),
    Rule(
        "ADDGRID",
        switched_on,
        "VASP's manual advises against it: forces may get worse",
        "leave it out, with PREC Accurate",
    ),
    Rule(
        "KSPACING",
        _above(_COARSE_KSPACING),
        "too few k-points for a metal: energies of cells of several sizes do not fit",
        "set 0.22",
    ),
    Rule(
        "ISMEAR",
        one_of(-4, -5),
        "forces of metals are not the derivative of the energy, and fewer than four k-points stop VASP",
        "set 0 unless all are insulators",
    ),
    Rule(
        "SIGMA",
        _above(_WIDE_SIGMA),
        "electrons are hot, and energies those of that temperature",
        "set 0.05 and ISMEAR 0",
    ),
    Rule("SYMPREC", _above(_LOOSE_SYMPREC), "forces of displaced atoms are made symmetric", "set ISYM = 0"),
    Rule("ISYM", _moves_in_symmetry, "MD keeps the symmetry of its first structure", "set 0"),
    Rule(
        "LSORBIT",
        switched_on,
        "energies follow the direction of moments, which a potential of positions cannot hold",
        "take it for structures without moments alone, with vasp_ncl",
    ),
    Rule(
        "LNONCOLLINEAR",
        switched_on,
        "energies follow the directions of moments, which a potential of positions cannot hold",
        "take vasp_ncl, and one order of moments",
    ),
    Rule(
        "NUPDOWN",
        lambda value, _: float(value) >= 0,
        "cells of any size have this moment, isolated atoms too",
        "give it to structures (info['multiplicity'])",
    ),
    Rule(
        "NBANDS",
        switched_on,
        "cells of any size have this number of bands, too few for the larger ones",
        "leave it out",
    ),
    Rule(
        "LASPH",
        _lacks_spheres,
        "the density around nuclei is made spherical, which is wrong for this functional",
        "set True",
    ),
    Rule("LDAU", _lacks_u, "LDAUU is not set, so there is no U", "set LDAUL, LDAUU and LDAUJ by element"),
    Rule("LDAUU", _u_without_effect, "LDAU is not set, so it has no effect", "set LDAU = True"),
    Rule(
        "ALGO",
        _slow_for_hybrids,
        "with a hybrid functional electrons often do not converge",
        "set Normal, All or Damped",
    ),
    Rule("PRECFOCK", _begins("f", "l", "s"), "forces of the exact exchange carry noise", "set Normal"),
    *(
        Rule(
            name,
            lambda value, _: float(value) > 1,
            "exact exchange on a part of the k-points, another one in each cell",
            "leave it out",
        )
        for name in ("NKRED", "NKREDX", "NKREDY", "NKREDZ")
    ),
    Rule(
        "LUSE_VDW",
        _counts_twice,
        "the correlation of the gradient is in the energy beside the nonlocal one",
        "set AGGAC = 0 (not for BEEF, SCAN)",
    ),
    Rule("IVDW", _two_dispersions, "dispersion is counted twice", "leave out one of IVDW and LUSE_VDW"),
    Rule("LCORR", _off, "forces are not corrected for what is missing in convergence", "leave it out"),
    Rule(
        "LMAXPAW", lambda value, _: -100 < float(value) < 0, "terms inside of the spheres are left out", "leave it out"
    ),
)
#: Said of some elements alone.
_OF_GAPS = Rule(
    "ISMEAR", _above(0), "it is for metals alone: where there is a gap, energies and forces are wrong", "set 0"
)
_OF_MOMENTS = Rule("ISPIN", one_of(1), "atoms that mostly have moments are computed without", "set 2")


def doubtful_tags(
    incar: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    elements: Collection[str] = (),
) -> list[str]:
    """
    Return what makes the labels of an INCAR noisy, or right for some materials alone.

    Parameters
    ----------
    incar
        Upper-case tags and their values.
    parameters
        What VASP said it used, defaults filled in; None before the run.
    elements
        Of the structures; those things are said that are wrong for them.

    Returns
    -------
    list of str
        One line for each tag, with what to do; empty if there is none.
    """
    # said in parameters whether they were used or not (KSPACING beside a file KPOINTS, SIGMA beside ISMEAR -5)
    used = {
        key: value for key, value in (parameters or {}).items() if key not in ("KSPACING", "NBANDS", "SIGMA", "ROPT")
    }
    told = {**used, **incar}
    if one_of(-4, -5)(told.get("ISMEAR"), told):  # there is no smearing
        told.pop("SIGMA", None)
    rules = list(DOUBTS)
    if any(not Element(element).is_metal for element in elements if Element.is_valid_symbol(element)):
        rules.append(_OF_GAPS)
    if not _MAGNETIC.isdisjoint(elements):
        rules.append(_OF_MOMENTS)
    return broken(rules, {key: value for key, value in told.items() if value is not None})


def cutoff_too_low(
    encut_eV: float | None, potentials: Collection[Cutoffs], elements: Collection[str]
) -> tuple[list[str], list[str]]:
    """
    Compare the cutoff of plane waves with what the pseudopotentials are made for.

    Parameters
    ----------
    encut_eV
        ENCUT; None where it is not set.
    potentials
        Those whose cutoffs are known.
    elements
        Of the structures.

    Returns
    -------
    tuple
        Why labels are refused, and what is said of them.
    """
    if encut_eV is None:
        apart = {recommended for _, _, recommended in potentials}
        if len(apart) > 1 or (not potentials and len(set(elements)) > 1):
            why = "it is the largest ENMAX of the elements of each cell, so cells of other elements have another cutoff"
            return [f"ENCUT is not set: {why}; set it"], []
        return [], []
    told = f"ENCUT = {encut_eV:g}"
    if not potentials and encut_eV < _LOWEST_OF_HARD and (hard := sorted(_HARD.intersection(elements))):
        why = f"below the ENMIN of every POTCAR of {', '.join(hard)} (200 eV and more)"
        return [f"{told}: {why}; set 1.3 times the ENMAX of yours"], []
    if not potentials:
        return [], []
    least, name = max((lowest, name) for name, lowest, _ in potentials)
    most, hardest = max((recommended, name) for name, _, recommended in potentials)
    cure = f"set {_FOR_STRESS * most:.0f} or more"
    if encut_eV < least:
        return [f"{told}: below the ENMIN of {name}, {least:g} eV: energies, forces and stress are wrong; {cure}"], []
    if encut_eV < most:
        return [], [f"{told}: below the ENMAX of {hardest}, {most:g} eV: bonds are not converged; {cure}"]
    if encut_eV < 0.999 * _FOR_STRESS * most:
        why = (
            f"below {_FOR_STRESS} times the ENMAX of {hardest}, {most:g} eV: the stress lacks what more plane waves add"
        )
        return [], [f"{told}: {why}; {cure}"]
    return [], []
