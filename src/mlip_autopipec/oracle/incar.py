"""INCAR, k-points and POTCARs of a VASP run: what was asked for, what was used, what of it decides the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from emmet.core.vasp.calc_types.utils import run_type

from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.oracle.vasp_tags import PER_SPECIES, stress_mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: INCAR keys that do not change the energy, forces and stress of a converged static calculation. A key that is not
#: here counts as physics, so that a new one is never overlooked. Values with which they would change them (ALGO None,
#: ICHARG 11, NSW 5 ...) are refused (:mod:`~mlip_autopipec.oracle.vasp_tags`).
NOT_PHYSICS = frozenset(
    # the way to self-consistency
    "ALGO IALGO ISEARCH NELM NELMIN NELMDL NELMGW AMIX BMIX AMIN AMIX_MAG BMIX_MAG MAXMIX IMIX MIXPRE INIMIX WC TIME "
    "ISTART ICHARG INIWAV LMIXTAU LMAXMIX LDIAG LSUBROT WEIMIN EBREAK DEPER NBANDS "
    # where the moments start; one per atom, so it belongs to the structure
    "MAGMOM "
    # symmetry saves k-points, no more
    "ISYM SYMPREC "
    # parallelisation
    "NCORE NPAR KPAR NSIM LPLANE LSCALU LSCALAPACK LSCAAWARE LASYNC LUSENCCL NCORE_IN_IMAGE1 MAXMEM NBLK "
    # output
    "SYSTEM NWRITE LWAVE LCHARG LCHARGH5 LVTOT LVHAR LELF LAECHG LORBIT LOPTICS LPARD NEDOS EMIN EMAX RWIGS KPOINT_BSE "
    "LDAUPRINT LH5 PHON_NSTRUCT NBLOCK KBLOCK LOCPROJ EFERMI "
    # steps of the atoms, of which there are none
    "NSW IBRION ISIF POTIM EDIFFG NFREE SMASS IOPT".split()
)
#: Keys whose values VASP says in ``parameters`` of vasprun.xml, defaults filled in: what it really used.
_REPORTED = [
    "PREC",
    "ISPIN",
    "ISMEAR",
    "SIGMA",
    "GGA",
    "METAGGA",
    "LREAL",
    "KSPACING",
    "KGAMMA",
    "LASPH",
    "ADDGRID",
    "NELECT",
    "NUPDOWN",
    "LHFCALC",
    "AEXX",
    "HFSCREEN",
    "LSORBIT",
    "LNONCOLLINEAR",
    "EDIFF",
    "IVDW",
    "LUSE_VDW",
]
_WHOLE_STRESS = 2
_FUNCTIONAL_OF_POTCAR = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA", "US": "LDA"}


def normal(value: Any) -> Any:
    """
    Bring an INCAR value to one form.

    VASP, pymatgen and people write the same as ``680``, ``680.0`` and ``6.8E+02``, or ``Ps`` and ``PS``.
    """
    if isinstance(value, (list, tuple, np.ndarray)):
        return [normal(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().upper()
        if word in (".TRUE.", "T", "TRUE"):
            return True
        if word in (".FALSE.", "F", "FALSE"):
            return False
        try:
            value = float(word)
        except ValueError:
            return word
    if isinstance(value, (int, float, np.number)):
        number = float(f"{float(value):.8g}")
        return int(number) if number == int(number) else number
    return value


def alike(key: str, asked: Any, used: Any) -> bool:
    """Tell whether two values of an INCAR key mean the same; VASP cuts words to six letters."""
    asked, used = normal(asked), normal(used)
    if key == "LREAL" and isinstance(asked, str) and isinstance(used, (str, bool)):
        return used is True or (isinstance(used, str) and asked[0] == used[0])  # Auto, A, On, O; reported as true
    if isinstance(asked, str) and isinstance(used, str):
        return asked == used or (min(len(asked), len(used)) >= 6 and asked[:6] == used[:6])
    return asked == used  # type: ignore[no-any-return]


def physics(incar: dict[str, Any] | None) -> dict[str, Any]:
    """Keep of an INCAR what decides the result; ISIF only where it gives no stress, or not all of it."""
    tags = {key.upper(): normal(value) for key, value in (incar or {}).items() if not key.startswith("@")}
    mode = {} if incar is None or stress_mode(tags) == _WHOLE_STRESS else {"ISIF": stress_mode(tags)}
    return {**{key: value for key, value in tags.items() if key not in NOT_PHYSICS}, **mode}


def overridden(incar: dict[str, Any], overrides: Any) -> tuple[dict[str, Any], list[Any]]:
    """
    Do to an INCAR what custodian's job does to it before the run (its ``settings_override``).

    Parameters
    ----------
    incar
        Is not changed.
    overrides
        Actions of custodian, or None.

    Returns
    -------
    tuple
        The INCAR that VASP gets, and the actions that do something else.
    """
    changed, others = dict(incar), []
    for override in overrides or []:
        action = override.get("action") or {}
        if override.get("dict") != "INCAR" or set(action) - {"_set", "_unset"}:
            others.append(override)
            continue
        changed.update({key.upper(): value for key, value in (action.get("_set") or {}).items()})
        for key in action.get("_unset") or {}:
            changed.pop(key.upper(), None)
    return changed, others


def changed_settings(document: Any) -> list[str]:
    """
    Compare what was asked for with what VASP finally ran with.

    Parameters
    ----------
    document
        An emmet ``TaskDoc``.

    Returns
    -------
    list of str
        One line per setting that decides the result and was changed on the way, by custodian or by VASP itself.
    """
    used = document.calcs_reversed[0].input
    incar, parameters = physics(used.incar), _reported(used.parameters)
    original = document.orig_inputs
    asked = None
    if original is not None and original.incar:
        asked = physics(overridden(dict(original.incar), _overrides(document))[0])
    changes: dict[str, str] = {}
    for key, value in (asked or {}).items():
        final = incar.get(key, parameters.get(key, value))
        if not alike(key, value, final):
            changes[key] = f"{key} was {value}, became {final}"
    if asked is not None:
        added = {key: value for key, value in incar.items() if key not in asked}
        changes.update({key: f"{key} was not set, became {value}" for key, value in added.items()})
    for key, value in incar.items():  # what VASP itself did not follow
        if key in parameters and not alike(key, value, parameters[key]):
            changes.setdefault(key, f"{key} is {value} in the INCAR, VASP used {parameters[key]}")
    for what, key, value in _corrected(document):
        if what == "INCAR" and key not in NOT_PHYSICS and key not in changes:
            wanted = None if asked is None else asked.get(key)
            if asked is None or not alike(key, wanted, value):
                changes[key] = f"custodian set {key} to {value}"
        elif what in ("KPOINTS", "POTCAR", "POSCAR") and not (what == "KPOINTS" and original and original.kpoints):
            changes[what] = f"custodian changed the {what}"
    if original is not None:
        changes.update(_changed_files(original, used))
    return list(changes.values())


def _changed_files(original: Any, used: Any) -> Iterator[tuple[str, str]]:
    if original.kpoints is not None and used.kpoints is not None:
        before, after = _mesh(original.kpoints), _mesh(used.kpoints)
        if before != after:
            yield "KPOINTS", f"KPOINTS were {before}, became {after}"
    if original.potcar_spec and used.potcar_spec:
        titles = [[spec.titel for spec in specs] for specs in (original.potcar_spec, used.potcar_spec)]
        if titles[0] != titles[1]:
            yield "POTCAR", f"POTCARs were {titles[0]}, became {titles[1]}"


def _corrected(document: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield what custodian set: file, key and value."""
    for action in (a for _, actions in corrections(document) for a in actions):
        what = action.get("dict")
        for kind, values in action.get("action", {}).items():
            if what is not None and kind in ("_set", "_unset"):
                for key, value in values.items():
                    yield what, key.upper(), normal(value) if kind == "_set" else None


def _overrides(document: Any) -> list[Any]:
    """Return what the user told custodian's job to change before the run."""
    runs = document.custodian or []
    job = (runs[0].job if hasattr(runs[0], "job") else runs[0].get("job")) if runs else None
    return (job.get("settings_override") if isinstance(job, dict) else None) or []


def corrections(document: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """List the errors custodian met, each with what it did about them, oldest first."""
    found = []
    for run in document.custodian or []:
        made = (run.corrections if hasattr(run, "corrections") else run.get("corrections")) or []
        found += [("+".join(one.get("errors") or ["unknown"]), one.get("actions") or []) for one in made]
    return found


def vasp_record(document: Any, of_structure: Mapping[str, Any] | None = None) -> OracleRecord:
    """
    Make the record of a VASP run from its document.

    The mesh of a run with KSPACING is VASP's own and differs from cell to cell, although emmet stores it like a
    KPOINTS file; only KSPACING goes into the record then. A mesh that does not follow from KSPACING was given.

    Parameters
    ----------
    document
        An emmet ``TaskDoc``.
    of_structure
        Tags that were set for this structure alone, and their values for all others; None where they have none.
    """
    used, others = document.calcs_reversed[0].input, of_structure or {}
    settings = {key: value for key, value in physics(used.incar).items() if key not in others}
    settings |= {key: normal(value) for key, value in others.items() if value is not None}
    settings.setdefault("ENCUT", normal((used.parameters or {}).get("ENMAX")))
    species = [symbol.split("_")[0] for symbol in used.potcar or []]
    for key in PER_SPECIES:
        if key in settings and isinstance(settings[key], list) and len(settings[key]) == len(species):
            settings[key] = dict(zip(species, settings[key], strict=True))
    kspacing, mesh = settings.pop("KSPACING", None), None
    if used.kpoints is not None and "KSPACING" not in others and not _follows_from(used, kspacing):
        kspacing, mesh = None, _mesh(used.kpoints)
    return OracleRecord.of(
        "VASP",
        settings,
        version=document.vasp_version,
        functional=_functional(used),
        kspacing_1_A=None if kspacing is None else float(kspacing),
        kpoints=mesh,
        potentials=_potentials(document, used),
    )


def _reported(parameters: dict[str, Any] | None) -> dict[str, Any]:
    parameters = parameters or {}
    reported = {key: parameters[key] for key in _REPORTED if parameters.get(key) is not None}
    if parameters.get("ENMAX") is not None:
        reported["ENCUT"] = parameters["ENMAX"]
    return {key: normal(value) for key, value in reported.items()}


def _follows_from(used: Any, kspacing: float | None) -> bool:
    """Tell whether the mesh is the one VASP makes: N_i = max(1, ceil(|b_i| / KSPACING)) (VASP wiki, KSPACING)."""
    if not kspacing or not used.kpoints.kpts or len(used.kpoints.kpts) != 1:
        return False
    wanted = np.array(used.structure.lattice.reciprocal_lattice.abc) / kspacing
    mesh = np.array(used.kpoints.kpts[0])
    # a length that is a whole number of spacings may fall on either side
    return all(n in (max(1, np.ceil(x - 1e-4)), max(1, np.ceil(x + 1e-4))) for n, x in zip(mesh, wanted, strict=True))


def _mesh(kpoints: Any) -> str:
    """Write a mesh in one line; Monkhorst's with odd divisions is the one around Gamma."""
    if kpoints.num_kpts or len(kpoints.kpts) != 1:
        return f"{kpoints.num_kpts} explicit points"
    divisions = [int(n) for n in kpoints.kpts[0]]
    style = getattr(kpoints.style, "name", str(kpoints.style)).capitalize()
    if style == "Monkhorst" and all(n % 2 for n in divisions):
        style = "Gamma"
    shift = [float(s) for s in (kpoints.kpts_shift or (0, 0, 0))]
    shifted = " shifted by " + " ".join(f"{s:g}" for s in shift) if any(shift) else ""
    return f"{style} {' '.join(map(str, divisions))}{shifted}"


def _functional(used: Any) -> str | None:
    found = str(getattr(run_type(both := {**(used.parameters or {}), **(used.incar or {})}), "value", ""))
    if found.startswith("GGA") and str(both.get("GGA", "--")).strip() in ("--", "None", ""):
        # not set: the functional the potentials were made with
        kinds = {_FUNCTIONAL_OF_POTCAR.get(kind) for kind in used.potcar_type or []}
        basis = kinds.pop() if len(kinds) == 1 else None
        return None if basis is None else basis + found.removeprefix("GGA")
    return found or None


def _potentials(document: Any, used: Any) -> dict[str, str]:
    original = document.orig_inputs.potcar_spec if document.orig_inputs is not None else None
    hashes = {spec.titel: spec.hash for spec in [*(original or []), *(used.potcar_spec or [])] if spec.hash}
    found = {}
    for spec in used.potcar_spec or []:
        words = (spec.titel or "").split()
        if words:
            element = (words[1] if len(words) > 1 else words[0]).split("_")[0].split(".")[0]
            found[element] = " ".join([spec.titel, *([hashes[spec.titel]] if spec.titel in hashes else [])])
    return found
