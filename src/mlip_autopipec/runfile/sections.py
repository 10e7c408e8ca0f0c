"""The sections of a run file: most are made from the dataclasses they fill."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

import numpy as np
from ase import Atoms
from jobflow import Maker
from pydantic import Field, ImportString, TypeAdapter, model_validator

from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import SelectMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.kinds import CRITERIA, ORACLES, TRAINERS, TrainerKind
from mlip_autopipec.lammps.exploration import check_structure
from mlip_autopipec.lammps.types import Condition, Engine, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.runfile.errors import nearest
from mlip_autopipec.runfile.fields import Number, Strict, Whole, parameter_descriptions, section
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import LABEL_RATIO
from mlip_autopipec.structures.electrons import repeated
from mlip_autopipec.structures.frozen import FREEZES_NOTHING, FROZEN, freeze, frozen_atoms, held_by
from mlip_autopipec.validation.oracle_md import ValidationSettings
from mlip_autopipec.validation.properties import PropertyCriterion
from mlip_autopipec.validation.targets import AccuracyTargets

#: Most atoms of a structure.
MOST_ATOMS = 2_000_000


class ShareSection(Strict):
    """What a job of one step takes of the machine."""

    cores: Annotated[Whole, Field(ge=1)] = Field(1, description="Cores that a job keeps busy, with all it starts.")
    threads: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Threads of OpenMP, BLAS and TensorFlow in each process; null: cores. 1 under mpirun."
    )
    at_once: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Most jobs at once; null: as many as there are cores for."
    )


class ResourcesSection(Strict):
    """Cores of this machine for the jobs of each step, when a command runs the campaign."""

    cores: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Cores for all jobs together; null: those that the process may use."
    )
    label: ShareSection | None = Field(None, description="The oracle; null: one core.")
    train: ShareSection | None = Field(None, description="Training; null: one core.")
    explore: ShareSection | None = Field(None, description="MD of a walker; null: one core.")
    light: ShareSection | None = Field(None, description="Everything else; null: one core.")


def told_trainers() -> str:
    """Name all trainers, each with a word about it."""
    return ", ".join(f"{name} ({kind.short})" for name, kind in TRAINERS.usable().items())


def _trainer_section(name: str, kind: TrainerKind) -> type[Strict]:
    """Make the section of a trainer."""
    basis = section(kind.basis, model_name=kind.basis_model, **kind.basis_fields)
    return section(
        kind.trainer,
        kind=(Literal[name], Field(name, description="The trainer.")),
        basis=(basis, Field(default_factory=basis, description="Size and shape of the potential.")),
    )


def _criterion_section(name: str, criterion: type) -> type[Strict]:
    """Make the section of a validation criterion."""
    return section(
        criterion,
        model_name=f"{criterion.__name__}Entry",
        kind=(Literal[name], Field(description="The criterion.")),
    )


def _one_of(sections: dict[str, type[Strict]]) -> Any:
    """Return the type of a section that is one of several, told apart by its ``kind``."""
    choices = tuple(sections.values())
    if len(choices) == 1:
        return choices[0]
    return Annotated[Union[choices], Field(discriminator="kind")]  # noqa: UP007 - made at run time


if TYPE_CHECKING:  # models made at run time; a type checker sees plain values
    TrainerSection: TypeAlias = Any
    CriterionSection: TypeAlias = Any
    DefaultTrainerSection: TypeAlias = Any
    DynamicsSection: TypeAlias = Any
    SelectionSection: TypeAlias = Any
    ConditionSection: TypeAlias = Any
    CandidatesSection: TypeAlias = Any
    CutoutsSection: TypeAlias = Any
    FirstDatasetSection: TypeAlias = Any
    StopSection: TypeAlias = Any
    PropertiesSection: TypeAlias = Any
    OutliersSection: TypeAlias = Any
    ThresholdsSection: TypeAlias = Any
    ValidationSection: TypeAlias = Any
    AccuracySection: TypeAlias = Any
else:
    _ENGINE = "LAMMPS as a Python library with forces from pyace, the lmp executable with ML-PACE, or what there is."
    _TRAINERS = {name: _trainer_section(name, kind) for name, kind in TRAINERS.usable().items()}
    DefaultTrainerSection = _TRAINERS["linear"]
    TrainerSection = _one_of(_TRAINERS)
    CriterionSection = _one_of(
        {name: _criterion_section(name, criterion) for name, criterion in CRITERIA.usable().items()}
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
    FirstDatasetSection = section(StructureGenerator, "n_atoms_of_basis")
    StopSection = section(StopRule, "criterion", "accuracy")
    AccuracySection = section(AccuracyTargets)
    PropertiesSection = section(PropertyCriterion)
    OutliersSection = section(OutlierRule)
    ThresholdsSection = section(ThresholdAdapter)
    ValidationSection = section(ValidationSettings)


class FrozenBelow(Strict):
    """Atoms below a plane."""

    below_A: Number = Field(description="Atoms with a smaller Cartesian z than this, in A, are frozen.")


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
        description="Element of each atom type, in their order, of a LAMMPS data or dump file, or an xyz file, that "
        "does not name them.",
    )
    repeat: tuple[Whole, Whole, Whole] = Field((1, 1, 1), description="Repetitions along the cell vectors.")
    frozen: Literal["from_structure"] | list[Whole] | FrozenBelow | None = Field(
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
            if (n_atoms := len(taken.atoms) * math.prod(self.repeat)) > MOST_ATOMS:
                raise InvalidInputError.of(
                    "structures.repeat",
                    f"is {list(self.repeat)}, which makes {n_atoms} atoms; {MOST_ATOMS} are the most",
                )
            try:
                check_structure(taken.atoms)
            except InvalidInputError as error:
                raise InvalidInputError(f"{self._named()}: {error}") from error
            whole = repeated(taken.atoms, taken.atoms.repeat(self.repeat))
            self._loaded = self._frozen(whole)
            overruled = [] if self.frozen is None else [f"(its '{FROZEN}')"]
            overruled += [FREEZES_NOTHING] if self.frozen == "from_structure" else []
            kept = [one for one in taken.remarks if not any(part in one for part in overruled)]
            self._remarks = (*kept, *self._about_frozen(self._loaded))
        return self._loaded.copy()

    def remarks(self, folder: Path) -> tuple[str, ...]:
        """Return what was left out of the structure or taken over, one line each."""
        self.load(folder)
        return self._remarks

    def _named(self) -> str:
        """Name the structure as its remarks do."""
        if self.bulk is not None:
            return f"structures.bulk: {self.bulk.get('name')}"
        if self.file is not None:
            return f"structures.file: '{self.file}'"
        return f"structures.materials_project: {self.materials_project}"

    def _about_frozen(self, atoms: Atoms) -> list[str]:
        """Say how many atoms rest in MD, where the run file asks for it."""
        if self.frozen is None:
            return []
        how: str = self.frozen if isinstance(self.frozen, str) else "a list of indices"
        if isinstance(self.frozen, FrozenBelow):
            how = f"{{below_A: {self.frozen.below_A:g}}}"
        n = len(frozen_atoms(atoms))
        return [f"{self._named()}: {n} of {len(atoms)} atoms do not move in MD (frozen: {how})"]

    def _frozen(self, atoms: Atoms) -> Atoms:
        """Mark the atoms that rest in MD."""
        if self.frozen is None:
            return atoms
        if self.frozen == "from_structure":
            held = held_by(atoms)
            if not len(held):
                source = self.file or self.bulk or self.materials_project
                raise InvalidInputError.of(
                    "structures.frozen",
                    f"is from_structure, but {source} fixes no atom in all directions; give indices, or {{below_A: z}}",
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


if TYPE_CHECKING:
    OracleName: TypeAlias = str
else:
    OracleName = Literal[tuple(ORACLES)]


#: Parameters of makers that hold keys and values.
_MAPPINGS = frozenset("incar potcar run_vasp input_data pseudopotentials initial_moments_muB".split())


class StaticMakerSection(Strict):
    """A static maker by name."""

    kind: OracleName | None = Field(description="The static maker.")
    maker: dict[str, Any] = Field(default_factory=dict, description="Parameters of that maker, e.g. calculator_kwargs.")

    _where: ClassVar[str] = "oracle"

    def static_maker(self) -> Maker:
        """Make the static maker."""
        assert self.kind is not None
        return self._make(ORACLES[self.kind].maker)

    def _make(self, path: str) -> Maker:
        make = TypeAdapter(ImportString[Any]).validate_python(path)
        known = set(inspect.signature(make).parameters)
        unknown = sorted(set(self.maker) - known)
        if unknown:
            raise InvalidInputError(
                f"{self._where}.maker: {unknown} are not parameters of {make.__name__}; "
                f"{nearest(unknown[0], sorted(known))}"
            )
        for name, value in self.maker.items():
            if (name in _MAPPINGS or name.endswith("_kwargs")) and not isinstance(value, (dict, NoneType)):
                raise InvalidInputError.of(
                    f"{self._where}.maker.{name}", f"is {str(value)[:60]!r}; give keys and values"
                )
        assert self.kind is not None
        check = ORACLES[self.kind].check
        try:
            if check is not None:
                check(self.maker)
            return make(**self.maker)
        except InvalidInputError as error:
            if not str(error).startswith("maker"):
                raise
            named = InvalidInputError(f"{self._where}.{error}")  # whoever made it does not know in which section it is
            named.field = None if error.field is None else f"{self._where}.{error.field}"
            raise named from error


_OF_TEACHER = parameter_descriptions(TeachMaker)


class TeacherSection(StaticMakerSection):
    """A cheap model that is learnt first; see docs/teacher.md."""

    kind: OracleName | None = Field(None, description="The static maker whose ASE calculator teaches.")
    potential: Path | None = Field(
        None,
        description="Instead of it: a linear ACE potential (B-basis .yaml), as a campaign by a cheap model ends with.",
    )
    n_labels: Whole = Field(TeachMaker.n_labels, ge=1, description=_OF_TEACHER["n_labels"])
    interval_steps: Whole = Field(TeachMaker.interval_steps, ge=1, description=_OF_TEACHER["interval_steps"])

    _where: ClassVar[str] = "teacher"

    def teach_maker(self, read: Callable[[str, Path], str]) -> TeachMaker:
        """Make the maker of the teacher; ``read`` returns the text of a file that a setting names."""
        return TeachMaker(
            static_maker=None if self.kind is None else self.static_maker(),
            n_labels=self.n_labels,
            interval_steps=self.interval_steps,
            potential=None if self.potential is None else read("teacher.potential", self.potential),
        )


class OracleSection(StaticMakerSection):
    """Who labels."""

    kind: OracleName = Field(description="The static maker.")
    max_failed_fraction: Number = Field(0.5, description=_OF_ORACLE["max_failed_fraction"])
    minimum_distance_ratio: Number = Field(LABEL_RATIO, description=_OF_ORACLE["minimum_distance_ratio"])
    reuse_labels: bool = Field(True, description=_OF_ORACLE["reuse_labels"])
    n_compared: Whole = Field(2, ge=0, description=_OF_ORACLE["n_compared"])
    energy_shift: Literal["none", "fit"] = Field("none", description=_OF_ORACLE["energy_shift"])

    def atom_maker(self) -> Maker | None:
        """Make the maker of isolated atoms, where they need settings of their own."""
        path = ORACLES[self.kind].atom_maker
        return None if path is None else self._make(path)


class StartFrom(Strict):
    """A potential and a dataset to start from."""

    potential: Path | None = Field(None, description="B-basis .yaml file.")
    active_set: Path | None = Field(None, description=".asi file of the potential.")
    reference_energies: dict[str, Number] = Field(
        default_factory=dict,
        description="Energies of isolated atoms in eV, which the potential does not contain. A fine-tune fits them to "
        "what its energies lack of those of the labels, if they are left out.",
    )
    labels: Path | list[Path] | None = Field(
        None,
        description="extxyz file with energies (eV) and forces (eV/A), or an output of VASP, pw.x, FHI-aims or CASTEP; "
        "or a list of such files; * stands for any part of a name, ** for any folders (runs/*/vasprun.xml).",
    )
    energy_key: str | None = Field(
        None, description="What that file calls total energies, e.g. REF_energy; found by its name if not given."
    )
    forces_key: str | None = Field(None, description="What it calls forces; found by its name if not given.")
    virial_key: str | None = Field(
        None,
        description="What it calls virials (eV, positive = compressed); a stress or virial is found by its name if not "
        "given.",
    )
    test_fraction: Number = Field(0.0, description="Share of the labels that is held out, where they do not say so.")
