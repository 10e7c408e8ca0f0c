"""The sections of a run file: most are made from the dataclasses they fill."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.abc import GetPropertiesMixin
from jobflow import Maker
from pydantic import Field, ImportString, TypeAdapter, ValidationError, model_validator

from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.active_learning.outliers import LabelQuarantine
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import SelectMaker
from mlip_autopipec.lammps.types import Condition, Engine, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.runfile.errors import nearest
from mlip_autopipec.runfile.fields import Strict, parameter_descriptions, section
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import LABEL_RATIO
from mlip_autopipec.structures.frozen import freeze
from mlip_autopipec.structures.intake import FIXED
from mlip_autopipec.training.grace import GRACEBasis, GRACEFSTrainer
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer
from mlip_autopipec.validation.oracle_md import ValidationSettings
from mlip_autopipec.validation.properties import PropertyGate
from mlip_autopipec.validation.targets import AccuracyTargets

#: Oracles by the name a run file calls them: what makes the static maker.
ORACLES: dict[str, str] = {
    "emt": "mlip_autopipec.jobs.static.EMTStaticMaker",
    "lennard-jones": "atomate2.ase.jobs.LennardJonesStaticMaker",
    "gfn-xtb": "atomate2.ase.jobs.GFNxTBStaticMaker",
    "ase": "mlip_autopipec.jobs.static.CalculatorStaticMaker",
    "espresso": "mlip_autopipec.jobs.espresso.EspressoStaticMaker",
    "vasp": "mlip_autopipec.oracle.vasp.vasp_static_maker",
}
#: The same for isolated atoms, where they need settings of their own.
ATOM_ORACLES: dict[str, str] = {"vasp": "mlip_autopipec.oracle.vasp.isolated_atom_maker"}
#: Trainers, with the class that describes their basis, by the name a run file calls them.
TRAINERS: dict[str, tuple[Any, Any]] = {
    "linear": (LinearACETrainer, BasisSettings),
    "pacemaker": (PacemakerTrainer, BasisSettings),
    "grace": (GRACEFSTrainer, GRACEBasis),
}
if TYPE_CHECKING:  # models made at run time; a type checker sees plain values
    LinearSection: TypeAlias = Any
    PacemakerSection: TypeAlias = Any
    GRACESection: TypeAlias = Any
    DynamicsSection: TypeAlias = Any
    SelectionSection: TypeAlias = Any
    ConditionSection: TypeAlias = Any
    CandidatesSection: TypeAlias = Any
    CutoutsSection: TypeAlias = Any
    FirstDatasetSection: TypeAlias = Any
    StopSection: TypeAlias = Any
    PropertiesSection: TypeAlias = Any
    QuarantineSection: TypeAlias = Any
    ThresholdsSection: TypeAlias = Any
    ValidationSection: TypeAlias = Any
    AccuracySection: TypeAlias = Any
else:
    _ENGINE = "LAMMPS as a Python library with forces from pyace, the lmp executable with ML-PACE, or what there is."
    _Basis = section(BasisSettings)
    _NonLinearBasis = section(BasisSettings, model_name="NonLinearBasisSettings", ndensity=(int, 2))
    LinearSection = section(
        LinearACETrainer,
        kind=(Literal["linear"], Field("linear", description="The trainer.")),
        basis=(_Basis, Field(default_factory=_Basis, description="Size and shape of the potential.")),
    )
    PacemakerSection = section(
        PacemakerTrainer,
        kind=(Literal["pacemaker"], Field("pacemaker", description="The trainer.")),
        basis=(_NonLinearBasis, Field(default_factory=_NonLinearBasis, description="Size and shape of the potential.")),
    )
    _GRACEBasis = section(GRACEBasis)
    GRACESection = section(
        GRACEFSTrainer,
        kind=(Literal["grace"], Field("grace", description="The trainer.")),
        basis=(_GRACEBasis, Field(default_factory=_GRACEBasis, description="Size and shape of the potential.")),
    )
    DynamicsSection = section(
        MDSettings,
        engine=(Engine, Field("auto", description=_ENGINE)),
        template=(Path | None, None),
    )
    SelectionSection = section(SelectMaker, "name")
    ConditionSection = section(Condition)
    CandidatesSection = section(CandidateGenerator)
    CutoutsSection = section(CutoutGenerator)
    FirstDatasetSection = section(StructureGenerator)
    StopSection = section(StopRule, "property_gate", "accuracy")
    AccuracySection = section(AccuracyTargets)
    PropertiesSection = section(PropertyGate)
    QuarantineSection = section(LabelQuarantine)
    ThresholdsSection = section(ThresholdAdapter)
    ValidationSection = section(ValidationSettings)


class FrozenBelow(Strict):
    """Atoms below a plane."""

    below_A: float = Field(description="Atoms with a smaller Cartesian z than this, in A, are frozen.")


class StructureSource(Strict):
    """One structure MD runs in."""

    file: Path | None = Field(
        None,
        description="Any structure file that ase or pymatgen reads, relative to the run file; of several structures "
        "the last.",
    )
    bulk: dict[str, Any] | None = Field(
        None, description="Arguments of ase.build.bulk: name, crystalstructure, a (A), cubic, ..."
    )
    materials_project: str | None = Field(
        None, description="Id in the Materials Project, e.g. mp-30; its key is read from MP_API_KEY or PMG_MAPI_KEY."
    )
    elements: list[str] = Field(
        default_factory=list,
        description="Element of each atom type, in their order, of a LAMMPS data or dump file that does not name them.",
    )
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="Repetitions along the cell vectors.")
    frozen: Literal["from_structure"] | list[int] | FrozenBelow | None = Field(
        None,
        description="Atoms that rest in MD: from_structure (those that the file fixes in all directions), a list of "
        "indices from 0 on, counted after the repetition, or {below_A: z}. By default all atoms move.",
    )

    _loaded: Atoms | None = None
    _remarks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> StructureSource:
        if sum(source is not None for source in (self.file, self.bulk, self.materials_project)) != 1:
            raise ValueError("give either 'file' or 'bulk' or 'materials_project'")
        return self

    def load(self, folder: Path) -> Atoms:
        """Read, build or fetch the structure."""
        if self._loaded is None:
            taken = load_structure(folder, self.file, self.bulk, self.materials_project, self.elements)
            self._loaded, self._remarks = self._frozen(taken.atoms.repeat(self.repeat)), taken.remarks
        return self._loaded.copy()

    def remarks(self, folder: Path) -> tuple[str, ...]:
        """Return what was left out of the structure or taken over, one line each."""
        self.load(folder)
        return self._remarks

    def _frozen(self, atoms: Atoms) -> Atoms:
        """Mark the atoms that rest in MD."""
        if self.frozen is None:
            return atoms
        if self.frozen == "from_structure":
            held = np.flatnonzero(atoms.arrays.get(FIXED, np.zeros(0)))
            if not len(held):
                source = self.file or self.bulk or self.materials_project
                raise InvalidInputError(
                    f"structures.frozen is from_structure, but {source} fixes no atom in all directions; "
                    "give indices, or {below_A: z}"
                )
        elif isinstance(self.frozen, FrozenBelow):
            held = np.flatnonzero(atoms.positions[:, 2] < self.frozen.below_A)
            if not len(held):
                raise InvalidInputError(
                    f"structures.frozen.below_A is {self.frozen.below_A}, but the lowest atom of "
                    f"{atoms.get_chemical_formula()} is at z = {atoms.positions[:, 2].min():.3f} A; give a larger value"
                )
        else:
            held = np.array(self.frozen, dtype=np.intp)
        return freeze(atoms, held)


_OF_ORACLE = parameter_descriptions(OracleMaker)


class OracleSection(Strict):
    """Who labels."""

    kind: Literal["emt", "lennard-jones", "gfn-xtb", "ase", "espresso", "vasp"] = Field(description="The static maker.")
    maker: dict[str, Any] = Field(default_factory=dict, description="Parameters of that maker, e.g. calculator_kwargs.")
    max_failed_fraction: float = Field(0.5, description=_OF_ORACLE["max_failed_fraction"])
    minimum_distance_ratio: float = Field(LABEL_RATIO, description=_OF_ORACLE["minimum_distance_ratio"])
    reuse_labels: bool = Field(True, description=_OF_ORACLE["reuse_labels"])
    n_compared: int = Field(2, ge=0, description=_OF_ORACLE["n_compared"])

    def static_maker(self) -> Maker:
        """Make the static maker."""
        return self._make(ORACLES[self.kind])

    def atom_maker(self) -> Maker | None:
        """Make the maker of isolated atoms, where they need settings of their own."""
        return self._make(ATOM_ORACLES[self.kind]) if self.kind in ATOM_ORACLES else None

    def _make(self, path: str) -> Maker:
        make = TypeAdapter(ImportString[Any]).validate_python(path)
        known = set(inspect.signature(make).parameters)
        unknown = sorted(set(self.maker) - known)
        if unknown:
            raise InvalidInputError(
                f"oracle.maker: {unknown} are not parameters of {make.__name__}; {nearest(unknown[0], sorted(known))}"
            )
        if self.kind == "ase":
            self._check_calculator()
        return make(**self.maker)

    def _check_calculator(self) -> None:
        """Call nothing but a calculator by a name that stands in a file: ``subprocess.run`` is one, too."""
        name = self.maker.get("calculator_class")
        if not name:
            raise InvalidInputError(
                "oracle.maker.calculator_class is missing: name the class of the ASE calculator that labels, for "
                "instance ase.calculators.abinit.Abinit; there is no default"
            )
        try:
            found = TypeAdapter(ImportString[Any]).validate_python(name)
        except ValidationError as error:
            raise InvalidInputError(f"oracle.maker.calculator_class: '{name}' cannot be imported: {error}") from error
        if not (isinstance(found, type) and issubclass(found, GetPropertiesMixin)):
            raise InvalidInputError(
                f"oracle.maker.calculator_class: '{name}' is not a class of ASE calculators; give one, for instance "
                "ase.calculators.abinit.Abinit"
            )


class StartFrom(Strict):
    """A potential and a dataset to start from."""

    potential: Path | None = Field(None, description="B-basis .yaml file.")
    active_set: Path | None = Field(None, description=".asi file of the potential.")
    reference_energies: dict[str, float] = Field(
        default_factory=dict, description="Energies of isolated atoms in eV, which the potential does not contain."
    )
    labels: Path | None = Field(None, description="extxyz file with energies (eV) and forces (eV/A).")
    energy_key: str | None = Field(
        None, description="What that file calls total energies, e.g. REF_energy; found by its name if not given."
    )
    forces_key: str | None = Field(None, description="What it calls forces; found by its name if not given.")
    virial_key: str | None = Field(
        None,
        description="What it calls virials (eV, positive = compressed); a stress or virial is found by its name if not "
        "given.",
    )
    test_fraction: float = Field(0.0, description="Share of the labels that is held out, where they do not say so.")
