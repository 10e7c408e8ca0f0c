"""What VASP is told for one structure: its charge, spin and moments; k-points and dipole correction along vacuum."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Kpoints

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.electrons import Told
from mlip_autopipec.oracle.incar import normal
from mlip_autopipec.oracle.refused import switched_on
from mlip_autopipec.structures.electrons import MOMENTS, charge_of, moments_of, multiplicity_of, told
from mlip_autopipec.structures.periodicity import centre_of, gathered

if TYPE_CHECKING:
    from ase import Atoms
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from numpy.typing import NDArray
    from pymatgen.core import Structure

#: What every maker of VASP takes of a structure.
TAKES = frozenset(["charge", "multiplicity", "moments"])


def for_vasp(maker: BaseVaspMaker, atoms: Atoms) -> Told:
    """
    Return a maker of VASP as it computes one structure.

    - A charge sets NELECT (electrons of the POTCARs less the charge), a multiplicity NUPDOWN, moments MAGMOM.
    - Along vacuum there is one k-point, whatever KSPACING or a density of k-points gives there; a mesh that was given
      as such stays.
    - ``LDIPOL = True`` without IDIPOL asks for the dipole correction of each slab, along its vacuum and about the
      centre of its atoms; of each cluster, in all directions; bulk and wires go without.

    Parameters
    ----------
    maker
        Is not changed.
    atoms
        As :func:`~mlip_autopipec.oracle.electrons.given_to` makes it.

    Raises
    ------
    InvalidInputError
        If the maker's settings do not let VASP have them.
    """
    structure = AseAtomsAdaptor.get_structure(atoms)
    structure.properties = {}
    incar, kpoints = _written(maker, structure)
    changes: dict[str, Any] = {}
    base: dict[str, Any] = {}
    _electrons(atoms, incar, changes, base)
    vacuum = ~gathered(atoms)[1] if len(atoms) else np.zeros(3, dtype=bool)
    _dipole(atoms, vacuum, incar, changes, base)
    mesh = _mesh(maker, structure, vacuum, incar, kpoints)
    if mesh is not None and kpoints is None:
        base["KSPACING"] = incar.get("KSPACING")
    if not changes and mesh is None and not charge_of(atoms) and moments_of(atoms) is None:
        return Told(maker, structure)
    own: Any = deepcopy(maker)
    generator = own.input_set_generator
    user = {**generator.user_incar_settings, **changes}
    if moments_of(atoms) is not None:
        user.pop("MAGMOM", None)  # which would go before those of the sites
    generator.user_incar_settings = user
    if mesh is not None:
        generator.user_kpoints_settings = mesh
    if charge := charge_of(atoms):
        generator.use_structure_charge = True
        structure.set_charge(charge)
    return Told(own, structure, base)


def without_electrons(atoms: Atoms) -> Atoms:
    """Return a structure without what :func:`for_vasp` tells of it: its level of theory is that of the others."""
    plain = atoms.copy()
    plain.info = {}
    plain.arrays.pop(MOMENTS, None)
    return plain


def _written(maker: BaseVaspMaker, structure: Structure) -> tuple[dict[str, Any], Any]:
    """Return INCAR (upper case) and k-points that a maker writes for a structure; no POTCAR needs to be here."""
    input_set: Any = deepcopy(maker.input_set_generator)  # making the input leaves the structure on it
    inputs = input_set.get_input_set(structure.copy(), prev_dir=None, potcar_spec=True)
    return {key.upper(): value for key, value in (inputs.get("INCAR") or {}).items()}, inputs.get("KPOINTS")


def _electrons(atoms: Atoms, incar: dict[str, Any], changes: dict[str, Any], base: dict[str, Any]) -> None:
    multiplicity, moments = multiplicity_of(atoms), moments_of(atoms)
    if charge_of(atoms):
        base["NELECT"] = None
    if multiplicity is None and moments is None:
        return
    if normal(incar.get("ISPIN", 1)) != 2 and not switched_on(incar.get("LSORBIT", False)):
        what = "magnetic moments" if multiplicity is None else told(atoms)
        raise InvalidInputError(
            f"{atoms.get_chemical_formula()} has {what}, and VASP computes without spin (ISPIN "
            f"{incar.get('ISPIN', 'not set')}); set ISPIN = 2 in incar, or take them out of the structure"
        )
    if multiplicity is not None:
        changes["NUPDOWN"] = multiplicity - 1
        base["NUPDOWN"] = incar.get("NUPDOWN")
    if moments is not None and "MAGMOM" not in incar:
        raise InvalidInputError(
            f"{atoms.get_chemical_formula()} has magnetic moments, and the input set writes no MAGMOM; give one to "
            "begin with, for instance incar: {MAGMOM: {Fe: 5}}, which moments of the structure then replace"
        )


def _dipole(
    atoms: Atoms, vacuum: NDArray[np.bool_], incar: dict[str, Any], changes: dict[str, Any], base: dict[str, Any]
) -> None:
    if not switched_on(incar.get("LDIPOL", False)) or "IDIPOL" in incar:
        return
    base |= {"LDIPOL": True, "IDIPOL": None, "DIPOL": None}
    along = np.flatnonzero(vacuum)
    if len(along) not in (1, 3) or len(atoms) == 1:
        changes["LDIPOL"] = None
        return
    changes["IDIPOL"] = 4 if len(along) == 3 else int(along[0]) + 1
    changes["DIPOL"] = [round(float(x), 6) for x in centre_of(atoms)]


def _mesh(
    maker: BaseVaspMaker, structure: Structure, vacuum: NDArray[np.bool_], incar: dict[str, Any], kpoints: Any
) -> Kpoints | None:
    """Return the mesh with one k-point along vacuum, None where it is that already, or was given as such."""
    generator: Any = maker.input_set_generator
    if not vacuum.any() or isinstance(getattr(generator, "user_kpoints_settings", None), Kpoints):
        return None
    shift: Any = (0, 0, 0)
    if kpoints is not None:
        if kpoints.num_kpts or len(kpoints.kpts) != 1 or len(kpoints.kpts[0]) != 3:
            return None
        divisions, shift = [int(n) for n in kpoints.kpts[0]], tuple(kpoints.kpts_shift or shift)
        style = kpoints.style
    else:
        kspacing = incar.get("KSPACING")
        if kspacing is None:
            return None
        # as VASP makes it (its wiki, KSPACING)
        divisions = [max(1, math.ceil(b / float(kspacing) - 1e-6)) for b in structure.lattice.reciprocal_lattice.abc]
        gamma = switched_on(incar.get("KGAMMA", True))
        style = Kpoints.supported_modes.Gamma if gamma else Kpoints.supported_modes.Monkhorst
    if all(n == 1 for n, open_ in zip(divisions, vacuum, strict=True) if open_):
        return None
    mesh: Any = tuple(1 if open_ else n for n, open_ in zip(divisions, vacuum, strict=True))
    shift = tuple(0 if open_ else s for s, open_ in zip(shift, vacuum, strict=True))
    return Kpoints("one k-point along vacuum", style=style, kpts=(mesh,), kpts_shift=shift)
