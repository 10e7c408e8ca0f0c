"""CP2K: labels from the documents of atomate2's makers."""

from __future__ import annotations

import logging
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from atomate2.utils.path import strip_hostname
from monty.io import zopen
from monty.os.path import zpath
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.code_settings import CHARGE_OF_CP2K, CP2K, cp2k_settings, diagonal_stress
from mlip_autopipec.oracle.electrons import Told
from mlip_autopipec.oracle.extracted import labelled
from mlip_autopipec.oracle.refused import broken, crystal_of, refuse, switched_on
from mlip_autopipec.structures.electrons import charge_of, multiplicity_of
from mlip_autopipec.structures.periodicity import goes_on_along

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure
    from pymatgen.io.vasp import Kpoints

    from mlip_autopipec.oracle.extracted import ExtractedLabel

logger = logging.getLogger(__name__)

_DIPOLE, _DIRECTION = "SURFACE_DIPOLE_CORRECTION", "SURF_DIP_DIR"
_FIXED_MOMENT = "FIXED_MAGNETIC_MOMENT"
#: Cosine of the angle between the normal of a slab and an axis along which CP2K corrects dipoles, at least.
_STRAIGHT = 0.999
_FORCES = re.compile(r"ATOMIC FORCES in \[(.+?)\]")
_STRESS = re.compile(r"STRESS\|.*stress tensor \[(.+?)\]")


def check_cp2k(maker: Any, elements: Sequence[str]) -> None:
    """
    Refuse a maker of atomate2 whose input gives other numbers than those of a label, before a campaign.

    Parameters
    ----------
    maker
        The maker.
    elements
        Of the campaign; the input is made for a crystal of them. Where it cannot be made on this machine (basis sets
        lie elsewhere), only the input that was run is looked at.

    Raises
    ------
    InvalidInputError
        The message names the settings, why, and what to do.
    """
    try:
        written = maker.input_set_generator.get_input_set(AseAtomsAdaptor.get_structure(crystal_of(elements)))
        text = str(written.cp2k_input)
    except Exception:
        logger.debug("no input of CP2K was made to look at", exc_info=True)
        return
    refuse("CP2K", broken(CP2K, cp2k_settings(text)))


def for_cp2k(maker: Any, atoms: Atoms) -> Told:
    """
    Return a maker of CP2K as it computes one structure: its charge and multiplicity, what belongs to its vacuum.

    A mesh has one k-point along vacuum. ``SURFACE_DIPOLE_CORRECTION`` among ``override_default_params`` without
    ``SURF_DIP_DIR`` asks for the dipole correction of each slab, along its vacuum; bulk, wires, clusters and lone atoms
    go without.

    Parameters
    ----------
    maker
        Is not changed.
    atoms
        As :func:`~mlip_autopipec.oracle.electrons.given_to` makes it.
    """
    structure = AseAtomsAdaptor.get_structure(atoms)
    structure.properties = {}
    told: dict[str, Any] = {}
    if charge := charge_of(atoms):
        structure.set_charge(charge)
        told[CHARGE_OF_CP2K] = None
    if (multiplicity := multiplicity_of(atoms)) is not None:
        maker = _with_multiplicity(maker, structure, multiplicity)
    maker = _with_dipole_correction(maker, atoms, told)
    if (mesh := _mesh(maker, structure, ~goes_on_along(atoms))) is not None:
        maker = deepcopy(maker)
        maker.input_set_generator.user_kpoints_settings = mesh
    return Told(maker, structure, told)


def _with_multiplicity(maker: Any, structure: Structure, multiplicity: int) -> Any:
    """Return the maker with a multiplicity that is kept: where occupations are smeared, CP2K only begins with it."""
    maker = deepcopy(maker)
    generator = maker.input_set_generator
    generator.user_input_settings = {**generator.user_input_settings, "multiplicity": multiplicity}
    written = cp2k_settings(str(generator.get_input_set(structure).cp2k_input))
    if switched_on(written.get("FORCE_EVAL/DFT/SCF/SMEAR", False)):
        overrides = deepcopy(generator.user_input_settings.get("override_default_params") or {})
        section = overrides
        for name in ("FORCE_EVAL", "DFT", "SCF", "SMEAR"):
            key = next((key for key in section if key.upper() == name), name)
            section = section.setdefault(key, {})
        for key in [key for key in section if key.upper() == _FIXED_MOMENT]:
            del section[key]
        section[_FIXED_MOMENT] = float(multiplicity - 1)
        generator.user_input_settings = {**generator.user_input_settings, "override_default_params": overrides}
    return maker


def _with_dipole_correction(maker: Any, atoms: Atoms, told: dict[str, Any]) -> Any:
    """Return the maker with the dipole correction along the vacuum of a slab, where it is asked for."""
    overrides = deepcopy(maker.input_set_generator.user_input_settings.get("override_default_params") or {})
    section = _at(_at(overrides, "FORCE_EVAL"), "DFT")
    given = {name.upper(): name for name in section}
    asked = section.get(given.get(_DIPOLE, ""), False)
    if not switched_on(asked) or _DIRECTION in given:
        return maker
    told |= {f"FORCE_EVAL/DFT/{_DIPOLE}": "T", f"FORCE_EVAL/DFT/{_DIRECTION}": None}
    del section[given[_DIPOLE]]
    along = np.flatnonzero(~goes_on_along(atoms))
    if len(along) == 1 and len(atoms) > 1:
        normal = np.linalg.inv(atoms.cell.array)[:, along[0]]
        normal /= np.linalg.norm(normal)
        axis = int(np.abs(normal).argmax())
        if abs(normal[axis]) < _STRAIGHT:
            raise LabelError(
                f"{atoms.get_chemical_formula()}: CP2K corrects dipoles along x, y or z, and the normal of this slab "
                f"is along {normal.round(3).tolist()}; turn the cell, or leave {_DIPOLE} out"
            )
        section |= {_DIPOLE: True, _DIRECTION: "XYZ"[axis]}
    maker = deepcopy(maker)
    generator = maker.input_set_generator
    generator.user_input_settings = {**generator.user_input_settings, "override_default_params": overrides}
    return maker


def _at(section: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of an input, whatever the case of its name; an empty one where there is none."""
    return next((inner for key, inner in section.items() if key.upper() == name and isinstance(inner, dict)), {})


def _mesh(maker: Any, structure: Structure, vacuum: NDArray[np.bool_]) -> Kpoints | None:
    """Return the mesh with one k-point along vacuum, None where it is that already, or was given as such."""
    if not vacuum.any():
        return None
    from pymatgen.io.vasp import Kpoints  # half of what the command line would take to start

    generator = maker.input_set_generator
    if isinstance(getattr(generator, "user_kpoints_settings", None), Kpoints):
        return None
    made = generator._get_kpoints(structure, generator.get_kpoints_updates(structure))
    if made is None or made.num_kpts or len(made.kpts) != 1 or len(made.kpts[0]) != 3:
        return None
    if all(int(n) == 1 for n, open_ in zip(made.kpts[0], vacuum, strict=True) if open_):
        return None
    mesh: Any = tuple(1 if open_ else int(n) for n, open_ in zip(made.kpts[0], vacuum, strict=True))
    return Kpoints("one k-point along vacuum", style=made.style, kpts=(mesh,), kpts_shift=made.kpts_shift)


def label_from_cp2k(document: Any, of_structure: Mapping[str, Any] | None = None) -> ExtractedLabel:
    """
    Read a label off the ``TaskDocument`` of ``atomate2.cp2k``.

    Its energy is in eV and holds the electronic entropy, so the forces derive from it. Forces and stress are stored
    as CP2K printed them, and an unconverged field counts as a success there: the units, and whether the field
    converged, are read from ``cp2k.out`` in the folder of the run, its settings from ``cp2k.inp``. A stress of which
    CP2K computed the diagonal alone is left out.

    Parameters
    ----------
    document
        Of the run.
    of_structure
        Settings that were made for this structure, as in :class:`~mlip_autopipec.oracle.electrons.Told`.

    Raises
    ------
    LabelError
        If the run failed or did not converge, if its settings change what the numbers mean
        (:mod:`~mlip_autopipec.oracle.code_settings`), if ``cp2k.out`` is gone, or prints units that are not known here.
    """
    if str(getattr(document.state, "value", document.state)) != "successful":
        raise LabelError(f"CP2K in {document.dir_name} ended as '{document.state}', not successful")
    file = Path(zpath(Path(strip_hostname(document.dir_name)) / "cp2k.out"))
    if not file.is_file():
        raise LabelError(f"{file} is missing; the units of CP2K's forces and stress are in this file only")
    with zopen(file, mode="rt", encoding="utf-8", errors="replace") as stream:
        printed = str(stream.read())
    settings = {key: value for key, value in _settings_of(file.parent).items() if key not in (of_structure or {})}
    if reasons := broken(CP2K, settings):
        raise LabelError(f"the numbers of CP2K in {file.parent} are not those of a label: {'. '.join(reasons)}")
    if "SCF run NOT converged" in printed:
        raise LabelError(f"'SCF run NOT converged' ({file})")
    output = document.output
    if output is None or output.energy is None or output.forces is None:
        raise LabelError(f"the CP2K document of {file} holds no energy or no forces; print_forces has to be on")
    if (unit := _unit(_FORCES, printed)) != "a.u.":
        raise LabelError(f"CP2K printed forces in '{unit}' ({file}); known is 'a.u.' (Hartree/Bohr), of CP2K 2023.1")
    stress_kbar = None
    if output.stress is not None and not diagonal_stress(settings):
        if (unit := _unit(_STRESS, printed)) != "GPa":
            raise LabelError(f"CP2K printed the stress in '{unit}' ({file}); known is 'GPa', of CP2K 2023.1")
        stress_kbar = 10.0 * np.array(output.stress)  # positive = compressed, as VASP has it
    forces = np.array(output.forces) * units.Hartree / units.Bohr
    return labelled(output.structure, output.energy, forces, stress_kbar, "free_energy")


def _settings_of(folder: Path) -> dict[str, str]:
    """Read what CP2K was really given, after all that changed its input; empty where the file is gone."""
    file = Path(zpath(folder / "cp2k.inp"))
    if not file.is_file():
        return {}
    with zopen(file, mode="rt", encoding="utf-8", errors="replace") as stream:
        return cp2k_settings(str(stream.read()))


def _unit(pattern: re.Pattern[str], printed: str) -> str | None:
    found = pattern.search(printed)
    return found[1] if found else None
