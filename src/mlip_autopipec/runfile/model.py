"""The run file: one YAML file that describes a whole campaign, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ase import Atoms
from jobflow import Flow
from pydantic import AliasChoices, Field, ValidationError

from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.checks import check_held, elements_of, first_dataset
from mlip_autopipec.flows.given import TakenStructures
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.flows.resources import Resources, Share
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.kinds import CRITERIA, TRAINERS
from mlip_autopipec.lammps.colvars import is_file_name
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.oracle.files import hold_out, label_files, read_labels_file
from mlip_autopipec.oracle.given import GivenLabels
from mlip_autopipec.oracle.suitability import check_elements
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.runfile.errors import RunFileText
from mlip_autopipec.runfile.fields import Strict, Whole
from mlip_autopipec.runfile.limits import beyond_limits
from mlip_autopipec.runfile.sections import (
    AccuracySection,
    CandidatesSection,
    ConditionSection,
    CriterionSection,
    CutoutsSection,
    DefaultTrainerSection,
    DynamicsSection,
    FirstDatasetSection,
    OracleSection,
    OutliersSection,
    PropertiesSection,
    ResourcesSection,
    SelectionSection,
    StartFrom,
    StopSection,
    StructureSource,
    TeacherSection,
    ThresholdsSection,
    TrainerSection,
    ValidationSection,
    told_trainers,
)
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.settings import available_cores
from mlip_autopipec.structures.periodicity import boxed
from mlip_autopipec.validation.criteria import Criteria, Criterion
from mlip_autopipec.validation.oracle_md import ValidationSettings
from mlip_autopipec.validation.properties import PropertyCriterion
from mlip_autopipec.validation.targets import AccuracyTargets

T = TypeVar("T")

#: Sections by the class that refuses their values; see InvalidInputError.field.
SECTIONS = {
    "StopRule": "stop",
    "MDSettings": "dynamics",
    "OracleMaker": "oracle",
    "StructureGenerator": "first_dataset",
    "PropertyCriterion": "properties",
    "OutlierRule": "outliers",
    "TeachMaker": "teacher",
}


class RunFile(Strict):
    """A campaign."""

    name: str = Field("campaign", description="Name of the campaign; its folder is runs/<name>.")
    seed: Whole = Field(0, description="Seed of all random numbers.")
    structures: list[StructureSource] = Field(min_length=1, description="Cells in which MD is run.")
    conditions: list[ConditionSection] = Field(
        min_length=1, description="Temperatures and pressures; each structure is explored at each."
    )
    ladder: bool = Field(
        False, description="Explore a structure at the next condition when the one before is completed."
    )
    oracle: OracleSection = Field(description="Who labels.")
    teacher: TeacherSection | None = Field(
        None, description="A cheap model that is learnt first, where fits to the labels of the oracle begin."
    )
    trainer: TrainerSection = Field(default_factory=DefaultTrainerSection, description=f"Trainer: {told_trainers()}.")
    dynamics: DynamicsSection = Field(default_factory=DynamicsSection, description="Settings of MD and of its halts.")
    first_dataset: FirstDatasetSection = Field(
        default_factory=FirstDatasetSection, description="Dataset of the first potential."
    )
    candidates: CandidatesSection = Field(default_factory=CandidatesSection, description="Candidates around a halt.")
    cutouts: CutoutsSection = Field(default_factory=CutoutsSection, description="Small cells cut out of large ones.")
    selection: SelectionSection = Field(
        default_factory=SelectionSection, description="Selection of the candidates to label."
    )
    stop: StopSection = Field(default_factory=StopSection, description="When the campaign ends.")
    properties: PropertiesSection | None = Field(
        None, description="Properties that have to agree with the oracle before convergence."
    )
    criteria: list[CriterionSection] = Field(
        default_factory=list,
        description="Further validation criteria, each with its kind: properties, or one of another package.",
    )
    outliers: OutliersSection | None = Field(
        default_factory=OutliersSection,
        validation_alias=AliasChoices("outliers", "quarantine"),
        description="When a label is a flagged outlier; null trains on all labels.",
    )
    thresholds: ThresholdsSection | None = Field(
        None, description="Adapts the thresholds of gamma to its calibration; {} for the default settings."
    )
    start_from: StartFrom = Field(StartFrom(), description="A potential and a dataset to start from.")
    accuracy: AccuracySection | None = Field(
        None, description="What the errors of a converged potential may be, on labels from its own MD."
    )
    validation: ValidationSection | None = Field(
        None, description="MD of the oracle itself to measure errors on at the end."
    )

    resources: ResourcesSection | None = Field(
        None, description="Cores for the jobs of each step on this machine; null: one worker each, with equal threads."
    )

    _folder: Path = Path()
    _text: RunFileText | None = None
    _first: tuple[str, list[Atoms]] | None = None
    _labels: GivenLabels | None = None

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
            raise text.explain(error, json_schema()) from error
        run._text = text
        run._folder = text.path.resolve().parent
        run._check_values()
        return run

    def _check_values(self) -> None:
        """Refuse, with their lines, invalid values of the right type."""
        with self._blamed("name"):
            folder = Path(self.name)
            if len(self.name) > 150 or not self.name.isprintable():
                raise InvalidInputError.of(
                    "name",
                    f"is {self.name[:60]!r}; give at most 150 characters that can be printed, without line breaks",
                )
            if not folder.parts or folder.is_absolute() or ".." in folder.parts:
                raise InvalidInputError.of("name", f"is '{self.name}'; it has to name a folder below runs/")
        for i, condition in enumerate(self.load_conditions()):
            with self._blamed("conditions", i):
                condition.check()
        with self._blamed("dynamics"):
            MDSettings(**self.dynamics.model_dump(exclude={"engine", "template"})).check()
        with self._blamed("stop"):
            StopRule(**self.stop.model_dump()).check()
        with self._blamed("accuracy"):
            if (targets := self._made("accuracy", AccuracyTargets)) is not None:
                targets.check()
        for name, cls in (
            ("first_dataset", StructureGenerator),
            ("candidates", CandidateGenerator),
            ("cutouts", CutoutGenerator),
            ("selection", SelectMaker),
            ("properties", PropertyCriterion),
            ("outliers", OutlierRule),
            ("thresholds", ThresholdAdapter),
        ):
            with self._blamed(self._key(name)):
                self._made(name, cls)
        if (wrong := list(beyond_limits(self))) and self._text is not None:
            raise self._text.error(wrong)
        self._criterion()
        with self._blamed("oracle"):
            self.oracle.static_maker()
        if self.teacher is not None:
            with self._blamed("teacher"):
                self.teacher.teach_maker(self._read_text).check()

    def _key(self, name: str) -> str:
        """Return what the file calls a section: an earlier name is as good."""
        alias = type(self).model_fields[name].validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [name]
        content = {} if self._text is None else self._text.content
        return next((key for key in names if isinstance(key, str) and key in content), name)

    def _made(self, name: str, cls: Callable[..., T]) -> T | None:
        """Make what a section describes; None where it is null."""
        given = getattr(self, name)
        return None if given is None else cls(**given.model_dump())

    def _criterion(self) -> Criterion | None:
        """Make the one validation criterion of all that are given; None without any."""
        first = self._made("properties", PropertyCriterion)
        criteria: list[Criterion] = [] if first is None else [first]
        for i, criterion in enumerate(self.criteria):
            with self._blamed("criteria", i):
                made = CRITERIA[criterion.kind]
                given = criterion.model_dump(exclude={"kind"})
                for name in getattr(made, "FILES", ()):  # what they hold travels with the jobs
                    given[name] = str(self._folder / given[name])
                criteria.append(made(**given))
        return Criteria(criteria) if len(criteria) > 1 else next(iter(criteria), None)

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
        kind = TRAINERS[trainer.pop("kind")]
        trainer["basis"] = kind.basis(**trainer["basis"])
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
                n_compared=oracle.n_compared,
                energy_shift=oracle.energy_shift,
            ),
            train_maker=TrainMaker(trainer=kind.trainer(**trainer), outliers=self._made("outliers", OutlierRule)),
            stop_rule=StopRule(
                **self.stop.model_dump(),
                criterion=self._criterion(),
                accuracy=self._made("accuracy", AccuracyTargets),
            ),
            threshold_adapter=self._made("thresholds", ThresholdAdapter),
            ladder=self.ladder,
            seed=self.seed,
            teach_maker=None if self.teacher is None else self.teacher.teach_maker(self._read_text),
        )

    def flow(self, campaign_id: str | None = None) -> Flow:
        """
        Make the flow of the campaign this file describes.

        Raises
        ------
        InvalidInputError
            For invalid values, with file and line where one setting is the cause.
        """
        structures, conditions = self.load_structures(), self.load_conditions()
        with self._blamed("oracle"):
            check_elements(self.oracle.static_maker(), elements_of(structures))
        labels, potential, maker = self.load_labels(), self.load_potential(), self.maker()
        for i, condition in enumerate(conditions):
            with self._blamed("conditions", i):
                check_held(condition, maker.dynamics_maker.settings, structures)
        try:
            return maker.make(
                structures, conditions, labels=labels, initial_potential=potential, campaign_id=campaign_id
            )
        except InvalidInputError as error:
            section = SECTIONS.get((error.field or "").partition(".")[0])
            if section is None or self._text is None:
                raise
            with self._text.blamed(section):
                raise

    def make_first(self) -> list[Atoms]:
        """Return the structures of the first dataset, as the first job will make them; they are made once."""
        content = self.model_dump_json()  # a copy may have other settings
        if self._first is None or self._first[0] != content:
            self._first = content, first_dataset(self.maker(), [boxed(atoms) for atoms in self.load_structures()])
        return [atoms.copy() for atoms in self._first[1]]

    def _read_text(self, name: str, file: Path) -> str:
        """Read a file named in the run file, relative to it."""
        path = self._folder / file
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name}: '{path}' cannot be read: {error}") from error

    def load_structures(self) -> list[Atoms]:
        """Read or build all structures."""
        structures = TakenStructures()
        for i, source in enumerate(self.structures):
            with self._blamed("structures", i):
                structures.append(source.load(self._folder))
        return structures

    def remarks(self) -> list[str]:
        """Return what was left out of structures and labels or taken over with them, one line each."""
        self.load_structures()
        said = [remark for source in self.structures for remark in source.remarks(self._folder)]
        return list(dict.fromkeys([*said, *self.load_labels().remarks]))

    def load_conditions(self) -> list[Condition]:
        """Return all conditions."""
        conditions = []
        for i, one in enumerate(self.conditions):
            given = one.model_dump()
            if given["colvars"] is not None and is_file_name(given["colvars"]):
                given["colvars"] = self._read_text(f"conditions[{i}].colvars", Path(given["colvars"]))
            conditions.append(Condition(**given))
        return conditions

    def load_potential(self) -> ACEPotential | None:
        """Read the potential to start from, if one is named."""
        start = self.start_from
        if start.potential is None:
            return None
        asi = None if start.active_set is None else self._folder / start.active_set
        with self._blamed("start_from"):
            return ACEPotential.from_files(self._folder / start.potential, asi, start.reference_energies)

    def load_labels(self) -> GivenLabels:
        """Read the dataset to start from, if one is named."""
        start = self.start_from
        if start.labels is None:
            return GivenLabels()
        if self._labels is None:
            given = start.labels if isinstance(start.labels, list) else [start.labels]
            with self._blamed("start_from", "labels"):
                files = label_files(self._folder, given)
                frames = read_labels_file(files, start.energy_key, start.forces_key, start.virial_key)
            hold_out(frames, start.test_fraction, self.seed)
            self._labels = frames
        return self._labels

    def validation_settings(self) -> ValidationSettings | None:
        """Return how to validate, if asked for."""
        if self.validation is None:
            return None
        settings = ValidationSettings(**self.validation.model_dump())
        if settings.timestep_fs is None:  # the campaign's own
            settings.timestep_fs = self.dynamics.timestep_fs
        return settings

    def load_resources(self) -> Resources | None:
        """
        Return what the jobs take of this machine, if the file says so.

        Raises
        ------
        InvalidInputError
            A job would need more cores than there are.
        """
        if self.resources is None:
            return None
        asked = self.resources.model_dump()
        with self._blamed("resources"):
            cores = asked.pop("cores") or available_cores()
            return Resources(cores, {step: Share(**share) for step, share in asked.items() if share is not None})


@cache
def json_schema() -> dict[str, Any]:
    """Return the JSON schema of run files; it is made once."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **RunFile.model_json_schema(), "title": "Run file of mlip-autopipec"}
