"""VASP: makers with the settings of labels, and labels from the documents of its runs."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols, ground_state_magnetic_moments
from atomate2 import SETTINGS as ATOMATE2
from atomate2.vasp.jobs.base import BaseVaspMaker
from atomate2.vasp.jobs.matpes import MatPesGGAStaticMaker
from custodian.vasp.handlers import FrozenJobErrorHandler, StdErrHandler, UnconvergedErrorHandler, VaspErrorHandler
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Kpoints
from pymatgen.io.vasp.sets import MatPESStaticSet

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.extracted import labelled
from mlip_autopipec.oracle.identity import bare
from mlip_autopipec.oracle.incar import changed_settings, corrections, normal, overridden, physics, vasp_record
from mlip_autopipec.oracle.inputs import cutoffs_of_potcar, potcar_named
from mlip_autopipec.oracle.record import OracleRecord, beside_the_input, class_name
from mlip_autopipec.oracle.refused import refuse
from mlip_autopipec.oracle.vasp_doubts import cutoff_too_low, doubtful_tags
from mlip_autopipec.oracle.vasp_failures import step_energies, unconverged
from mlip_autopipec.oracle.vasp_structure import without_electrons
from mlip_autopipec.oracle.vasp_tags import refused_tags, stress_mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from custodian.custodian import ErrorHandler

    from mlip_autopipec.oracle.extracted import ExtractedLabel

logger = logging.getLogger(__name__)

#: On top of the MatPES PBE set (PBE, ENCUT 680 eV, KSPACING 0.22 1/A, Gaussian smearing of 0.05 eV, PREC Accurate,
#: no projection in real space, ISPIN 2). None takes a key away.
LABEL_INCAR: dict[str, Any] = {
    "EDIFF": 1e-6,  # the set's 1e-5 leaves meV/A in the forces
    "ISYM": 0,  # rattled cells have none; what VASP finds by its tolerance would be wrong
    "IBRION": -1,
    "NSW": 0,
    "ISIF": 2,  # stress is computed
    "LCHARG": False,
    "LWAVE": False,
    "LAECHG": False,
    "LVTOT": False,
    "LELF": False,
    "LORBIT": None,
}
#: An atom in a box: levels that are sharp and do not mix by smearing, and a start from Hund's moment.
ATOM_INCAR: dict[str, Any] = {
    **LABEL_INCAR,
    "ISPIN": 2,
    "ISMEAR": 0,
    "SIGMA": 0.01,
    "LREAL": False,
    "ALGO": "All",
    "AMIN": 0.01,
    "MAGMOM": {
        symbol: float(moment)
        for symbol, moment in zip(chemical_symbols, ground_state_magnetic_moments, strict=False)
        if moment > 0
    },
}
_ATOMS_OWN = {*ATOM_INCAR} - {*LABEL_INCAR} | {"KSPACING"}
#: Errors whose correction by custodian touches the way to self-consistency, NBANDS, parallelisation or symmetry only.
#: Left out: those that change smearing, k-points, LREAL, PREC, the cell or the atoms (tet, dentet, subspacematrix,
#: real_optlay, triple_product, ...), those of moving atoms, and warnings that leave nothing to correct at ISYM 0, for
#: which custodian would end a run that VASP finishes well.
HARMLESS_ERRORS = [
    "brmix",
    "eddrmm",
    "edddav",
    "pssyevx",
    "pdsyevx",
    "zheev",
    "eddiag",
    "grad_not_orth",
    "amin",
    "zpotrf",
    "too_few_bands",
    "nbands_not_sufficient",
    "elf_kpar",
    "ksymm",
    "inv_rot_mat",
    "bravais",
    "pricel",
    "pricelv",
    "posmap",
    "rhosyg",
]


def label_handlers() -> list[ErrorHandler]:
    """
    Make custodian's handlers that cannot change what is computed.

    Not among them, of atomate2's default: LargeSigma, IncorrectSmearing and KspacingMetal change smearing and k-points;
    PositiveEnergy refuses energies that are right for compressed cells and single atoms; NonConverging changes the
    smearing in the end; MeshSymmetry changes the mesh; Potim is about moving atoms.
    """
    return [
        VaspErrorHandler(errors_subset_to_catch=list(HARMLESS_ERRORS)),
        UnconvergedErrorHandler(),
        FrozenJobErrorHandler(),
        StdErrHandler(),
    ]


def vasp_static_maker(
    incar: dict[str, Any] | None = None,
    potcar: dict[str, str] | None = None,
    *,
    potcar_functional: str | None = None,
    run_vasp: dict[str, Any] | None = None,
) -> MatPesGGAStaticMaker:
    """
    Make the maker of one label: atomate2's MatPES PBE static calculation, set up for forces.

    The density of k-points is constant (KSPACING, no KPOINTS file), so that cells of any size and cut-outs fit
    together. Powerups apply on top as usual.

    Parameters
    ----------
    incar
        INCAR keys on top of the set and of :data:`LABEL_INCAR`.
    potcar
        POTCAR of an element, where it is not the set's: ``{"Cu": "Cu"}``.
    potcar_functional
        Release of the POTCARs, where it is not the set's ``PBE_64``: ``PBE_54``.
    run_vasp
        Arguments of atomate2's ``run_vasp``, e.g. ``vasp_cmd`` or ``wall_time`` in s.
    """
    return _maker("VASP label", {**LABEL_INCAR, **_upper(incar)}, potcar, potcar_functional, run_vasp)


def isolated_atom_maker(
    incar: dict[str, Any] | None = None,
    potcar: dict[str, str] | None = None,
    *,
    potcar_functional: str | None = None,
    run_vasp: dict[str, Any] | None = None,
    atom_incar: dict[str, Any] | None = None,
) -> MatPesGGAStaticMaker:
    """
    Make the maker of one atom in a box, at the level of theory of :func:`vasp_static_maker`.

    Gamma alone, by a KPOINTS file, so that a KSPACING set for all makers has no effect here; spin polarised, from
    Hund's moment; hardly smeared. The energy is the free energy as for all other labels. The box has to break the
    symmetry.

    Parameters
    ----------
    incar, potcar, potcar_functional, run_vasp
        As given to :func:`vasp_static_maker`. Of ``incar`` is left out what :data:`ATOM_INCAR` sets for atoms
        (smearing, spin, projection, the way to self-consistency) and KSPACING: what suits a metal spoils an atom.
    atom_incar
        INCAR keys for atoms alone, on top of all.
    """
    settings = {key: value for key, value in _upper(incar).items() if key not in _ATOMS_OWN}
    settings = {**ATOM_INCAR, **settings, **_upper(atom_incar)}
    maker = _maker("VASP isolated atom", settings, potcar, potcar_functional, run_vasp)
    gamma: Any = Kpoints.gamma_automatic((1, 1, 1))
    maker.input_set_generator.user_kpoints_settings = gamma
    return maker


def _upper(incar: dict[str, Any] | None) -> dict[str, Any]:
    # pymatgen would write both, encut and ENCUT
    return {key.upper(): value for key, value in (incar or {}).items()}


def _maker(
    name: str,
    incar: dict[str, Any],
    potcar: dict[str, str] | None,
    potcar_functional: Any,
    run_vasp: dict[str, Any] | None,
) -> MatPesGGAStaticMaker:
    input_set: Any = MatPESStaticSet(
        user_incar_settings=incar,
        user_potcar_settings=potcar or {},
        user_potcar_functional=potcar_functional,
    )
    # polling costs nothing, but a label must not wait for the next poll; monitors still check every five minutes
    custodian = {"polling_time_step": 1, "monitor_freq": 300}
    return MatPesGGAStaticMaker(
        name=name,
        input_set_generator=input_set,
        run_vasp_kwargs={"handlers": label_handlers(), "custodian_kwargs": custodian, **(run_vasp or {})},
        # the label's own check gives the reason; atomate2's would raise without one
        stop_children_kwargs={"handle_unsuccessful": False},
        task_document_kwargs={"store_additional_json": False},
    )


def asked_of_vasp(maker: BaseVaspMaker, atoms: Atoms) -> OracleRecord:
    """
    Return what VASP would be asked for: the input files, made here without being written.

    POTCARs are known by their names and release, and by what they hold where they are on this machine.

    Parameters
    ----------
    maker
        An atomate2 maker of VASP.
    atoms
        The structure. Charge, multiplicity and moments of its own, and what is set along its vacuum
        (:func:`~mlip_autopipec.oracle.vasp_structure.for_vasp`), are no part of what is returned.

    Raises
    ------
    InvalidInputError
        If its tags, or what custodian is told to do, give other numbers than those of a label
        (:mod:`~mlip_autopipec.oracle.vasp_tags`).
    """
    return asked_with_doubts(maker, atoms)[0]


def asked_with_doubts(maker: BaseVaspMaker, atoms: Atoms) -> tuple[OracleRecord, list[str]]:
    """
    Return what VASP would be asked for, and what makes such labels noisy or right for some materials alone.

    Parameters
    ----------
    maker, atoms
        As for :func:`asked_of_vasp`.

    Returns
    -------
    tuple
        The record, and one line for each doubt (:mod:`~mlip_autopipec.oracle.vasp_doubts`).
    """
    # making the input leaves the structure on the input set
    input_set: Any = deepcopy(maker.input_set_generator)
    structure = AseAtomsAdaptor.get_structure(bare(without_electrons(atoms)))
    inputs = input_set.get_input_set(structure, prev_dir=None, potcar_spec=True)
    incar = dict(inputs.get("INCAR") or {})
    if maker.write_input_set_kwargs.get("apply_incar_updates", True):
        incar.update(ATOMATE2.VASP_INCAR_UPDATES)
    incar, besides = _as_run(maker, {key.upper(): value for key, value in incar.items()})
    tags, elements = {key: normal(value) for key, value in incar.items()}, sorted(set(atoms.symbols))
    potcar = [str(symbol) for symbol in str(inputs.get("POTCAR.spec") or inputs.get("POTCAR") or "").split()]
    functional = str(getattr(input_set, "user_potcar_functional", None))
    known = [(name, *cutoffs) for name in potcar if (cutoffs := cutoffs_of_potcar(name, functional)) is not None]
    too_low, doubtful = cutoff_too_low(tags.get("ENCUT"), known, elements)
    refuse("VASP", refused_tags(tags, n_species=len(elements)) + too_low, "this INCAR")
    kpoints, species = inputs.get("KPOINTS"), inputs["POSCAR"].site_symbols
    if kpoints is not None and (any(kpoints.labels or []) or "line" in kpoints.style.name.lower()):
        refuse("VASP", ["k-points lie along lines of a band structure, not on a mesh; set KSPACING"], "these KPOINTS")
    settings = physics(incar)
    if "MAGMOM" in incar:  # no setting of a label, but the start that decides which moments are found
        settings["MAGMOM"] = normal(incar["MAGMOM"])
    settings.update(besides)
    record = OracleRecord.of(
        "VASP",
        settings,
        functional=functional,
        kpoints=None if kpoints is None else f"{kpoints.style.name} {kpoints.kpts} {tuple(kpoints.kpts_shift)}",
        potentials={element: potcar_named(symbol, functional) for element, symbol in zip(species, potcar, strict=False)}
        or None,
    )
    return record, doubtful_tags(tags, elements=elements) + doubtful


def _as_run(maker: BaseVaspMaker, incar: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the INCAR that VASP will get, and what else decides the result besides the input set."""
    besides = beside_the_input(maker)
    run = dict(besides.pop("run_vasp_kwargs", {}))
    if "job_type" in run:
        reason = f"job_type of run_vasp is '{run['job_type']}': a label is one run of VASP; leave it out"
        refuse("VASP", [reason], "run_vasp_kwargs")
    incar, others = overridden(incar, run.pop("settings_override", None))
    if others:
        run["settings_override"] = others
    if run:
        besides["run_vasp_kwargs"] = run
    if type(maker).make is not BaseVaspMaker.make:
        besides["maker"] = class_name(type(maker))
    return incar, besides


def label_from_vasp(document: Any, of_structure: Mapping[str, Any] | None = None) -> ExtractedLabel:
    """
    Read a label off an emmet ``TaskDoc``.

    A stress of which VASP computed no or not all components (ISIF 0 or 1) is left out.

    Parameters
    ----------
    document
        Of the run.
    of_structure
        Tags that were set for this structure, as in :class:`~mlip_autopipec.oracle.electrons.Told`.

    Raises
    ------
    LabelError
        If the run did not converge, was computed with other settings than requested, or lacks what a label needs.
    """
    where, calculation = document.dir_name, (document.calcs_reversed or [None])[0]
    steps = None if calculation is None else calculation.output.ionic_steps
    if not steps:
        raise LabelError(f"the VASP document in {where} holds no ionic step; keep store_trajectory at NO")
    last = steps[-1]
    incar, parameters = calculation.input.incar or {}, calculation.input.parameters or {}
    own = dict(of_structure or {})
    tags = {key: normal(value) for key, value in incar.items() if key not in own}
    if reasons := refused_tags(tags, {key: value for key, value in parameters.items() if key not in own}):
        raise LabelError(f"the numbers of VASP in {where} are not those of a label: {'. '.join(reasons)}")
    if not last.electronic_steps:
        raise LabelError(f"VASP in {where} made no electronic step: its forces are not DFT's (ML_LMLFF?)")
    settings = {**parameters, **incar}
    energies = step_energies(settings, last.electronic_steps)
    reason = unconverged(where, settings, energies, parameters.get("NELM"))
    if reason is not None:
        raise LabelError(reason)
    state = str(getattr(document.state, "value", document.state))
    if state != "successful":
        errors = getattr(document.analysis, "errors", None) or ["no reason given"]
        raise LabelError(f"VASP in {where} ended as '{state}', not successful: {'; '.join(map(str, errors))}")
    if changed := changed_settings(document):
        raise LabelError(
            f"VASP in {where} ran with other settings than asked for: {'; '.join(changed)}. All labels need the "
            "same settings; set the key yourself for all labels, or leave out the custodian handler that changed it"
        )
    # forces are the derivative of the free energy, not of the energy for sigma -> 0 that
    # document.output.energy holds; the sites were sorted, so the structure is the document's own
    output = document.output
    if not np.isfinite(last.e_fr_energy) or not np.isfinite(output.forces).all():  # emmet calls that successful
        raise LabelError(
            f"VASP in {where} ended with an energy of {last.e_fr_energy} eV and forces that are "
            f"{'finite' if np.isfinite(output.forces).all() else 'not finite'}: its SCF diverged. Read "
            "OSZICAR; another ALGO or mixing may help, or the structure is unphysical"
        )
    stress = output.stress if stress_mode(incar, parameters) == stress_mode({"ISIF": 2}) else None
    label = labelled(output.structure, last.e_fr_energy, output.forces, stress, "free_energy")
    corrected = tuple(errors for errors, _ in corrections(document))
    return replace(label, record=vasp_record(document, own), corrections=corrected)
