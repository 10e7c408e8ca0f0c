"""The run file: one YAML that says everything about a campaign, checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from ase import Atoms
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.emt import parameters as emt_parameters
from jobflow import Flow, Maker
from pydantic import Field, ImportString, TypeAdapter, ValidationError, model_validator

from mlip_autopipec.ace.basis import BasisSettings
from mlip_autopipec.ace.calibration import ThresholdAdapter
from mlip_autopipec.ace.grace import GRACEBasis, GRACEFSTrainer
from mlip_autopipec.ace.linear import LinearACETrainer
from mlip_autopipec.ace.pacemaker import PacemakerTrainer
from mlip_autopipec.ace.potential import ACEPotential
from mlip_autopipec.ace.properties import PropertyGate
from mlip_autopipec.ace.quarantine import LabelQuarantine
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
from mlip_autopipec.oracle.static import CalculatorStaticMaker
from mlip_autopipec.oracle.validation import ValidationSettings
from mlip_autopipec.runfile_errors import RunFileText, nearest
from mlip_autopipec.runfile_fields import Strict, parameter_descriptions, section
from mlip_autopipec.runfile_structures import load_structure

T = TypeVar("T")

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
#: Sections by the class whose name their errors begin with.
SECTIONS = {
    "StopRule": "stop",
    "MDSettings": "dynamics",
    "OracleMaker": "oracle",
    "StructureGenerator": "first_dataset",
    "PropertyGate": "properties",
}

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
    _Properties: TypeAlias = Any
    _Quarantine: TypeAlias = Any
    _Thresholds: TypeAlias = Any
    _Validation: TypeAlias = Any
else:
    _ENGINE = "LAMMPS as a Python library with forces from pyace, the lmp executable with ML-PACE, or what there is."
    _Basis = section(BasisSettings)
    _NonLinearBasis = section(BasisSettings, model_name="NonLinearBasisSettings", ndensity=(int, 2))
    _Linear = section(
        LinearACETrainer,
        kind=(Literal["linear"], Field("linear", description="The trainer.")),
        basis=(_Basis, Field(default_factory=_Basis, description="Size and shape of the potential.")),
    )
    _Pacemaker = section(
        PacemakerTrainer,
        kind=(Literal["pacemaker"], Field("pacemaker", description="The trainer.")),
        basis=(_NonLinearBasis, Field(default_factory=_NonLinearBasis, description="Size and shape of the potential.")),
    )
    _GRACEBasis = section(GRACEBasis)
    _GRACE = section(
        GRACEFSTrainer,
        kind=(Literal["grace"], Field("grace", description="The trainer.")),
        basis=(_GRACEBasis, Field(default_factory=_GRACEBasis, description="Size and shape of the potential.")),
    )
    _Dynamics = section(
        MDSettings,
        engine=(Engine, Field("auto", description=_ENGINE)),
        template=(Path | None, None),
    )
    _Selection = section(SelectMaker, "name")
    _Condition = section(Condition)
    _Candidates = section(CandidateGenerator)
    _Cutouts = section(CutoutGenerator)
    _FirstDataset = section(StructureGenerator)
    _Stop = section(StopRule, "property_gate")
    _Properties = section(PropertyGate)
    _Quarantine = section(LabelQuarantine)
    _Thresholds = section(ThresholdAdapter)
    _Validation = section(ValidationSettings)


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
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="Repetitions along the cell vectors.")

    _loaded: Atoms | None = None

    @model_validator(mode="after")
    def _one_source(self) -> StructureSource:
        if sum(source is not None for source in (self.file, self.bulk, self.materials_project)) != 1:
            raise ValueError("give either 'file' or 'bulk' or 'materials_project'")
        return self

    def load(self, folder: Path) -> Atoms:
        """Read, build or fetch the structure."""
        if self._loaded is None:
            self._loaded = load_structure(folder, self.file, self.bulk, self.materials_project).repeat(self.repeat)
        return self._loaded.copy()


_OF_ORACLE = parameter_descriptions(OracleMaker)


class OracleSection(Strict):
    """Who labels."""

    kind: Literal["emt", "lennard-jones", "gfn-xtb", "ase", "espresso", "vasp"] = Field(description="The static maker.")
    maker: dict[str, Any] = Field(default_factory=dict, description="Parameters of that maker, e.g. calculator_kwargs.")
    max_failed_fraction: float = Field(0.5, description=_OF_ORACLE["max_failed_fraction"])
    minimum_distance_ratio: float = Field(0.5, description=_OF_ORACLE["minimum_distance_ratio"])
    reuse_labels: bool = Field(True, description=_OF_ORACLE["reuse_labels"])

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
        name = self.maker.get("calculator_class", CalculatorStaticMaker.calculator_class)
        try:
            found = TypeAdapter(ImportString[Any]).validate_python(name)
        except ValidationError as error:
            raise InvalidInputError(f"oracle.maker.calculator_class: '{name}' cannot be imported: {error}") from error
        if not (isinstance(found, type) and issubclass(found, GetPropertiesMixin)):
            raise InvalidInputError(
                f"oracle.maker.calculator_class: '{name}' is no class of an ASE calculator; give one, for instance "
                "ase.calculators.abinit.Abinit"
            )


class StartFrom(Strict):
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


class RunFile(Strict):
    """A campaign."""

    name: str = Field("campaign", description="Name of the campaign; its folder is runs/<name>.")
    seed: int = Field(0, description="Everything random is derived from it.")
    structures: list[StructureSource] = Field(min_length=1, description="The cells MD runs in.")
    conditions: list[_Condition] = Field(
        min_length=1, description="Temperatures and pressures; each structure is run at each."
    )
    ladder: bool = Field(False, description="Open the next condition of a structure when the one before runs through.")
    oracle: OracleSection = Field(description="Who labels.")
    trainer: Annotated[_Linear | _Pacemaker | _GRACE, Field(discriminator="kind")] = Field(
        default_factory=_Linear, description="Who fits: linear (seconds), pacemaker (gradient fit), grace (GRACE-FS)."
    )
    dynamics: _Dynamics = Field(default_factory=_Dynamics, description="MD, and when it halts.")
    first_dataset: _FirstDataset = Field(
        default_factory=_FirstDataset, description="What the first potential is trained on."
    )
    candidates: _Candidates = Field(default_factory=_Candidates, description="What is proposed around a halt.")
    cutouts: _Cutouts = Field(default_factory=_Cutouts, description="Small cells cut out of large ones.")
    selection: _Selection = Field(default_factory=_Selection, description="What of it is labelled.")
    stop: _Stop = Field(default_factory=_Stop, description="When the campaign ends.")
    properties: _Properties | None = Field(
        None, description="Properties of the crystals that have to be the oracle's before the campaign converges."
    )
    quarantine: _Quarantine | None = Field(
        default_factory=_Quarantine, description="When a label is set aside; null trusts all."
    )
    thresholds: _Thresholds | None = Field(
        None, description="Adapts the thresholds of gamma to what gamma has been worth; {} for the usual settings."
    )
    start_from: StartFrom = Field(StartFrom(), description="A potential and a dataset to start from.")
    validation: _Validation | None = Field(None, description="MD of the oracle itself to measure errors on at the end.")

    _folder: Path = Path()
    _text: RunFileText | None = None

    @classmethod
    def load(cls, path: str | Path) -> RunFile:
        """
        Read and check a run file.

        Raises
        ------
        InvalidInputError
            Names the file, the fields, their values and what is allowed.
        """
        text = RunFileText(Path(path))
        try:
            run = cls.model_validate(text.content)
        except ValidationError as error:
            raise text.explain(error, cls.model_json_schema()) from error
        run._text = text
        run._folder = text.path.resolve().parent
        run._check_values()
        return run

    def _check_values(self) -> None:
        """Refuse, with their lines, values of the right type that cannot be meant."""
        with self._blamed("name"):
            folder = Path(self.name)
            if not folder.parts or folder.is_absolute() or ".." in folder.parts:
                raise InvalidInputError(f"name is '{self.name}'; it has to name a folder below runs/")
        for i, condition in enumerate(self.load_conditions()):
            with self._blamed("conditions", i):
                condition.check()
        with self._blamed("dynamics"):
            MDSettings(**self.dynamics.model_dump(exclude={"engine", "template"})).check()
        with self._blamed("stop"):
            StopRule(**self.stop.model_dump()).check()
        for name, cls in (
            ("first_dataset", StructureGenerator),
            ("candidates", CandidateGenerator),
            ("cutouts", CutoutGenerator),
            ("selection", SelectMaker),
            ("properties", PropertyGate),
            ("quarantine", LabelQuarantine),
            ("thresholds", ThresholdAdapter),
        ):
            with self._blamed(name):
                self._made(name, cls)
        with self._blamed("oracle"):
            self.oracle.static_maker()

    def _made(self, name: str, cls: Callable[..., T]) -> T | None:
        """Make what a section describes; None where it is null."""
        given = getattr(self, name)
        return None if given is None else cls(**given.model_dump())

    def _blamed(self, *loc: int | str) -> AbstractContextManager[None]:
        """Name file and line in errors that the values below ``loc`` cause, where there is a file."""
        return nullcontext() if self._text is None else self._text.blamed(*loc)

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
                reuse_labels=oracle.reuse_labels,
            ),
            train_maker=TrainMaker(
                trainer=trainer_class(**trainer), quarantine=self._made("quarantine", LabelQuarantine)
            ),
            stop_rule=StopRule(**self.stop.model_dump(), property_gate=self._made("properties", PropertyGate)),
            threshold_adapter=self._made("thresholds", ThresholdAdapter),
            ladder=self.ladder,
            seed=self.seed,
        )

    def flow(self, campaign_id: str | None = None) -> Flow:
        """
        Make the flow of the campaign this file describes.

        Raises
        ------
        InvalidInputError
            Whatever cannot be meant, with file and line where one setting is the cause.
        """
        structures, conditions = self.load_structures(), self.load_conditions()
        if self.oracle.kind == "emt":
            unknown = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()} - set(emt_parameters)
            with self._blamed("oracle"):
                if unknown:
                    raise InvalidInputError(f"oracle emt knows {', '.join(emt_parameters)}, not {', '.join(unknown)}")
        labels, potential, maker = self.load_labels(), self.load_potential(), self.maker()
        try:
            return maker.make(
                structures, conditions, labels=labels, initial_potential=potential, campaign_id=campaign_id
            )
        except InvalidInputError as error:
            section = SECTIONS.get(str(error).partition(".")[0])
            if section is None or self._text is None:
                raise
            with self._text.blamed(section):
                raise

    def _read_text(self, name: str, file: Path) -> str:
        """Read a file named in the run file, relative to it."""
        path = self._folder / file
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name}: '{path}' cannot be read: {error}") from error

    def load_structures(self) -> list[Atoms]:
        """Read or build all structures."""
        structures = []
        for i, source in enumerate(self.structures):
            with self._blamed("structures", i):
                structures.append(source.load(self._folder))
        return structures

    def load_conditions(self) -> list[Condition]:
        """Return all conditions."""
        return [Condition(**c.model_dump()) for c in self.conditions]

    def load_potential(self) -> ACEPotential | None:
        """Read the potential to start from, if one is named."""
        start = self.start_from
        if start.potential is None:
            return None
        asi = None if start.active_set is None else self._folder / start.active_set
        with self._blamed("start_from"):
            return ACEPotential.from_files(self._folder / start.potential, asi, start.reference_energies)

    def load_labels(self) -> list[Atoms]:
        """Read the dataset to start from, if one is named."""
        start = self.start_from
        if start.labels is None:
            return []
        path = self._folder / start.labels
        with self._blamed("start_from", "labels"):
            frames = read_labels_file(path, start.energy_key, start.forces_key, start.virial_key)
        hold_out(frames, start.test_fraction, self.seed)
        return frames

    def validation_settings(self) -> ValidationSettings | None:
        """Return how to validate, if asked for."""
        return None if self.validation is None else ValidationSettings(**self.validation.model_dump())


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of run files."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **RunFile.model_json_schema(), "title": "Run file of mlip-autopipec"}
