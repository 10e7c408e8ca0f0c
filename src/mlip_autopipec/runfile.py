"""The run file: one YAML that says everything about a campaign, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

import ase.build
import ase.io
import yaml
from ase import Atoms
from jobflow import Maker
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ImportString,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from mlip_autopipec.ace.basis import BasisSettings
from mlip_autopipec.ace.grace import GRACEBasis, GRACEFSTrainer
from mlip_autopipec.ace.linear import LinearACETrainer
from mlip_autopipec.ace.pacemaker import PacemakerTrainer
from mlip_autopipec.ace.potential import ACEPotential
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.generate.candidates import CandidateGenerator
from mlip_autopipec.generate.cutout import CutoutGenerator
from mlip_autopipec.generate.seeds import StructureGenerator
from mlip_autopipec.jobs.assess import StopRule
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import Condition, Engine, MDSettings
from mlip_autopipec.oracle.files import hold_out, read_labels_file
from mlip_autopipec.oracle.validation import ValidationSettings

#: Oracles by the name a run file calls them: what makes the static maker.
ORACLES: dict[str, str] = {
    "emt": "mlip_autopipec.oracle.static.EMTStaticMaker",
    "lennard-jones": "atomate2.ase.jobs.LennardJonesStaticMaker",
    "gfn-xtb": "atomate2.ase.jobs.GFNxTBStaticMaker",
    "ase": "mlip_autopipec.oracle.static.CalculatorStaticMaker",
    "espresso": "mlip_autopipec.oracle.espresso.EspressoStaticMaker",
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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _section(cls: type, *leave_out: str, **extra: Any) -> type[_Strict]:
    """Make the model of a run-file section from the dataclass it fills: same names, same defaults."""
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.name in leave_out:
            continue
        if f.default_factory is not dataclasses.MISSING:
            fields[f.name] = (hints[f.name], Field(default_factory=f.default_factory))
        else:
            fields[f.name] = (hints[f.name], ... if f.default is dataclasses.MISSING else f.default)
    return create_model(cls.__name__, __base__=_Strict, **fields, **extra)


if TYPE_CHECKING:  # models made at run time; a type checker sees plain values
    _Linear: TypeAlias = Any
    _Pacemaker: TypeAlias = Any
    _GRACE: TypeAlias = Any
    _Dynamics: TypeAlias = Any
    _Selection: TypeAlias = Any
    _Condition: TypeAlias = Any
    _Candidates: TypeAlias = Any
    _Cutouts: TypeAlias = Any
    _FirstDataset: TypeAlias = Any
    _Stop: TypeAlias = Any
    _Validation: TypeAlias = Any
else:
    _Basis = _section(BasisSettings)
    _NonLinearBasis = _section(BasisSettings, "ndensity", ndensity=(int, 2))
    _Linear = _section(
        LinearACETrainer,
        "basis",
        kind=(Literal["linear"], "linear"),
        basis=(_Basis, Field(default_factory=_Basis)),
    )
    _Pacemaker = _section(
        PacemakerTrainer,
        "basis",
        kind=(Literal["pacemaker"], "pacemaker"),
        basis=(_NonLinearBasis, Field(default_factory=_NonLinearBasis)),
    )
    _GRACEBasis = _section(GRACEBasis)
    _GRACE = _section(
        GRACEFSTrainer,
        "basis",
        kind=(Literal["grace"], "grace"),
        basis=(_GRACEBasis, Field(default_factory=_GRACEBasis)),
    )
    _Dynamics = _section(MDSettings, "template", engine=(Engine, "auto"), template=(Path | None, None))
    _Selection = _section(SelectMaker, "name")
    _Condition = _section(Condition)
    _Candidates = _section(CandidateGenerator)
    _Cutouts = _section(CutoutGenerator)
    _FirstDataset = _section(StructureGenerator)
    _Stop = _section(StopRule)
    _Validation = _section(ValidationSettings)


class StructureSource(_Strict):
    """One structure MD runs in."""

    file: Path | None = Field(None, description="Anything ase.io.read understands; relative to the run file.")
    bulk: dict[str, Any] | None = Field(None, description="Arguments of ase.build.bulk, e.g. {name: Cu, cubic: true}.")
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="Repetitions along the cell vectors.")

    @model_validator(mode="after")
    def _one_source(self) -> StructureSource:
        if (self.file is None) == (self.bulk is None):
            raise ValueError("give either 'file' or 'bulk'")
        return self

    def load(self, folder: Path) -> Atoms:
        """Read or build the structure."""
        if self.file is not None:
            path = folder / self.file
            if not path.is_file():
                raise InvalidInputError(f"structures.file: '{path}' does not exist")
            try:
                atoms = ase.io.read(path)
            except Exception as error:
                raise InvalidInputError(f"structures.file: '{path}' cannot be read: {error}") from error
        else:
            try:
                atoms = ase.build.bulk(**(self.bulk or {}))
            except Exception as error:
                raise InvalidInputError(
                    f"structures.bulk: {self.bulk} is not understood by ase.build.bulk: {error}"
                ) from error
        if not isinstance(atoms, Atoms):
            raise InvalidInputError(f"structures.file: '{self.file}' holds more than one structure")
        return atoms.repeat(self.repeat)


class OracleSection(_Strict):
    """Who labels."""

    kind: Literal["emt", "lennard-jones", "gfn-xtb", "ase", "espresso", "vasp"] = Field(description="The static maker.")
    maker: dict[str, Any] = Field(default_factory=dict, description="Parameters of that maker, e.g. calculator_kwargs.")
    max_failed_fraction: float = 0.5
    minimum_distance_ratio: float = 0.5

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
                f"oracle.maker: {unknown} are not parameters of {make.__name__}; known are {sorted(known)}"
            )
        return make(**self.maker)


class StartFrom(_Strict):
    """A potential and a dataset to start from."""

    potential: Path | None = Field(None, description="B-basis .yaml file.")
    active_set: Path | None = Field(None, description=".asi file of the potential.")
    reference_energies: dict[str, float] = Field(
        default_factory=dict, description="eV per atom the potential leaves out."
    )
    labels: Path | None = Field(None, description="extxyz file with energies (eV) and forces (eV/A).")
    energy_key: str = Field("energy", description="What that file calls total energies, e.g. REF_energy.")
    forces_key: str = Field("forces", description="What it calls forces.")
    virial_key: str | None = Field(
        None, description="What it calls virials (eV, positive = compressed), if it has any."
    )
    test_fraction: float = Field(0.0, description="Share of the labels that is held out, where they do not say so.")


class RunFile(_Strict):
    """A campaign."""

    name: str = "campaign"
    seed: int = 0
    structures: list[StructureSource] = Field(min_length=1)
    conditions: list[_Condition] = Field(min_length=1)
    ladder: bool = Field(False, description="Open the next condition of a structure when the one before runs through.")
    oracle: OracleSection
    trainer: Annotated[_Linear | _Pacemaker | _GRACE, Field(discriminator="kind")] = Field(default_factory=_Linear)
    dynamics: _Dynamics = Field(default_factory=_Dynamics)
    first_dataset: _FirstDataset = Field(default_factory=_FirstDataset)
    candidates: _Candidates = Field(default_factory=_Candidates)
    cutouts: _Cutouts = Field(default_factory=_Cutouts)
    selection: _Selection = Field(default_factory=_Selection)
    stop: _Stop = Field(default_factory=_Stop)
    start_from: StartFrom = StartFrom()
    validation: _Validation | None = None

    _folder: Path = Path()

    @classmethod
    def load(cls, path: str | Path) -> RunFile:
        """
        Read and check a run file.

        Raises
        ------
        InvalidInputError
            Names the file, the fields, their values and what is allowed.
        """
        file = Path(path)
        if not file.is_file():
            raise InvalidInputError(f"run file '{file}' does not exist")
        try:
            content = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise InvalidInputError(f"run file '{file}' is not valid YAML: {error}") from error
        try:
            run = cls.model_validate(content)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
            raise InvalidInputError(f"run file '{file}':\n" + "\n".join(lines)) from error
        run._folder = file.resolve().parent
        return run

    def maker(self) -> OTFMaker:
        """Make the OTFMaker this file describes."""
        dynamics = self.dynamics.model_dump()
        engine = dynamics.pop("engine")
        if dynamics["template"] is not None:  # its text travels with the jobs, not its path
            dynamics["template"] = self._read_text("dynamics.template", dynamics["template"])
        trainer = self.trainer.model_dump()
        trainer_class, basis_class = TRAINERS[trainer.pop("kind")]
        trainer["basis"] = basis_class(**trainer["basis"])
        if trainer.get("input_file") is not None:  # read when the trainer is made: no step depends on a path
            trainer["input_file"] = str(self._folder / trainer["input_file"])
        oracle = self.oracle
        return OTFMaker(
            name=self.name,
            generate_maker=GenerateMaker(generator=StructureGenerator(**self.first_dataset.model_dump())),
            dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(**dynamics), engine=engine),
            propose_maker=ProposeMaker(
                generator=CandidateGenerator(**self.candidates.model_dump()),
                cutouts=CutoutGenerator(**self.cutouts.model_dump()),
            ),
            select_maker=SelectMaker(**self.selection.model_dump()),
            oracle_maker=OracleMaker(
                static_maker=oracle.static_maker(),
                atom_maker=oracle.atom_maker(),
                max_failed_fraction=oracle.max_failed_fraction,
                minimum_distance_ratio=oracle.minimum_distance_ratio,
            ),
            train_maker=TrainMaker(trainer=trainer_class(**trainer)),
            stop_rule=StopRule(**self.stop.model_dump()),
            ladder=self.ladder,
            seed=self.seed,
        )

    def _read_text(self, name: str, file: Path) -> str:
        """Read a file named in the run file, relative to it."""
        path = self._folder / file
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name}: '{path}' cannot be read: {error}") from error

    def load_structures(self) -> list[Atoms]:
        """Read or build all structures."""
        return [source.load(self._folder) for source in self.structures]

    def load_conditions(self) -> list[Condition]:
        """Return all conditions."""
        return [Condition(**c.model_dump()) for c in self.conditions]

    def load_potential(self) -> ACEPotential | None:
        """Read the potential to start from, if one is named."""
        start = self.start_from
        if start.potential is None:
            return None
        asi = None if start.active_set is None else self._folder / start.active_set
        return ACEPotential.from_files(self._folder / start.potential, asi, start.reference_energies)

    def load_labels(self) -> list[Atoms]:
        """Read the dataset to start from, if one is named."""
        start = self.start_from
        if start.labels is None:
            return []
        path = self._folder / start.labels
        frames = read_labels_file(path, start.energy_key, start.forces_key, start.virial_key)
        hold_out(frames, start.test_fraction, self.seed)
        return frames

    def validation_settings(self) -> ValidationSettings | None:
        """Return how to validate, if asked for."""
        return None if self.validation is None else ValidationSettings(**self.validation.model_dump())
