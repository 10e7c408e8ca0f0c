"""One k-point along vacuum for ASE calculators that are given a density of k-points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import kpts2mp, kpts2sizeandoffsets

from mlip_autopipec.structures.periodicity import goes_on_along

if TYPE_CHECKING:
    from ase import Atoms


def thin_out_along_vacuum(calculator: Any, atoms: Atoms) -> None:
    """
    Turn a density of k-points into a mesh with one k-point along vacuum.

    A mesh that is given as such, and bulk, stay as they are.

    Parameters
    ----------
    calculator
        One of ASE's, for instance ``Abinit`` with ``kpts=3.5``, or another with ``kpts={"density": 3.5}``; is changed.
    atoms
        The structure, periodic in all directions.
    """
    given: Any = getattr(calculator, "parameters", {}).get("kpts")
    as_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not as_number and not (isinstance(given, dict) and "density" in given):
        return
    goes_on = goes_on_along(atoms)
    if goes_on.all():
        return
    size = kpts2mp(atoms, given) if as_number else kpts2sizeandoffsets(atoms=atoms, **given)[0]
    mesh = tuple(int(n) if on else 1 for n, on in zip(size, goes_on, strict=True))
    if as_number:
        calculator.parameters["kpts"] = mesh
        return
    gamma = {"gamma": given["gamma"]} if given.get("gamma") is not None else {}
    calculator.parameters["kpts"] = {"size": mesh, **gamma}
