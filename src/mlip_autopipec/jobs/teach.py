"""Teach: a cheap model labels its own MD, and what is learnt from that is where fits to labels that cost begin."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Maker
from monty.json import jsanitize

from mlip_autopipec.errors import InvalidInputError, LabelError, MLIPError, TrainingError, check_whole
from mlip_autopipec.frames import pack
from mlip_autopipec.jobs.base import current_store, current_uuid, load_document, loop_job
from mlip_autopipec.jobs.failures import TEACH, keeps_reason
from mlip_autopipec.jobs.run_oracle import calculator_for
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.oracle.electrons import with_initial_moments
from mlip_autopipec.oracle.suitability import check_calculator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.linear import LinearRecord
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.distances import LABEL_RATIO, shortest_contact
from mlip_autopipec.structures.periodicity import boxed
from mlip_autopipec.structures.provenance import Provenance, Split
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.teacher import linear_potential, refuse_beyond_limit
from mlip_autopipec.validation.oracle_md import ValidationSettings, has_stress, oracle_md_states, with_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from jobflow import JobStore

    from mlip_autopipec.lammps.types import MDSettings
    from mlip_autopipec.training.training import ACETrainer

logger = logging.getLogger(__name__)

#: Part of the labels that are structures as of a first dataset: other volumes and strains than MD has.
DISPLACED = 0.25
#: A further run of MD is so many times as hot as the hottest condition, for what a potential meets before it is right.
_HOTTER = 1.5
_LEAST = 0.5  # of the structures that were asked for have to come out


@dataclass
class TeachMaker(Maker):
    """
    Learn a cheap model, which is then the prior mean of every fit of the campaign.

    Its labels are those of its own MD in the campaign's structures, at its conditions and one that is hotter, and of
    structures as of a first dataset. They are kept in a document of their own kind, and are never counted among the
    campaign's.

    Parameters
    ----------
    name
        Name of the job.
    static_maker
        Static maker whose ASE calculator is the teacher: GFN-xTB, a universal model, an empirical potential.
    n_labels
        Labels of the teacher, over all structures and conditions together: three quarters of its MD, and at least one
        of each structure with another volume; structures for pairs of elements that never meet come on top.
    interval_steps
        Steps of its MD between two labels.
    potential
        Instead of a static maker: text of a linear ACE potential in its B-basis, what pacemaker's ``.yaml`` holds; that
        of a campaign by a cheap model for instance, whose labels are free.

    Examples
    --------
    >>> from mlip_autopipec.jobs.static import EMTStaticMaker
    >>> TeachMaker(static_maker=EMTStaticMaker(), n_labels=200).n_labels
    200
    """

    name: str = "teach"
    static_maker: Maker | None = None
    n_labels: int = 400
    interval_steps: int = 50
    potential: str | None = None

    def check(self, elements: Sequence[str] = ()) -> None:
        """
        Refuse settings that cannot work, naming the field and the value.

        Parameters
        ----------
        elements
            Of the campaign, where they are known: the teacher has to know them.
        """
        for name, about in (("n_labels", ", better hundreds"), ("interval_steps", "")):
            check_whole(f"TeachMaker.{name}", getattr(self, name), 1, about)
        if (self.potential is None) is (self.static_maker is None):
            raise InvalidInputError("a teacher is either a static maker or a potential: give one of them")
        if self.potential is not None:
            known = linear_potential(self.potential).elements
            if elements and set(known) != set(elements):
                raise InvalidInputError.of(
                    "TeachMaker.potential",
                    f"knows {', '.join(known)}, and the campaign has {', '.join(elements)}; give one of these elements",
                )
        elif not hasattr(type(self.static_maker), "calculator"):
            raise InvalidInputError.of(
                "TeachMaker.static_maker",
                f"is {type(self.static_maker).__name__}; a teacher runs MD, for which it has to be a static maker with "
                "an ASE calculator",
            )
        elif elements:
            try:
                check_calculator(self.static_maker, elements)
            except InvalidInputError as error:
                raise InvalidInputError.of("TeachMaker.static_maker", f"cannot teach: {error}") from error

    @loop_job()
    def make(
        self,
        campaign: CampaignDocument | str,
        trainer: ACETrainer,
        dynamics: MDSettings,
        generator: StructureGenerator,
        seed: int,
        largest: int | None = None,
        cycle: int = 0,
    ) -> TeacherDocument:
        """
        Let the teacher run MD and label, and learn it.

        Parameters
        ----------
        campaign
            Structures and conditions, or the uuid of their document.
        trainer
            Of the campaign.
        dynamics
            Time step, ensemble and barostat of its MD.
        generator
            Of the first dataset.
        seed
            Of the campaign.
        largest
            Most atoms of a structure that is computed whole; larger ones are represented by cut-outs of the generator.
        cycle
            Of the loop, in which it is taught.

        Raises
        ------
        InvalidInputError
            MD of a given potential costs more than the trainer allows.
        TrainingError
            The teacher could not compute half of what it was asked for, or could not be learnt.
        """
        if isinstance(campaign, str):
            campaign = load_document(CampaignDocument, campaign)
        return self._taught(campaign.campaign_id, cycle, campaign, trainer, dynamics, generator, seed, largest)

    @keeps_reason(TEACH)
    def _taught(
        self,
        campaign_id: str,
        cycle: int,  # noqa: ARG002 for the reason of a failure
        campaign: CampaignDocument,
        trainer: ACETrainer,
        dynamics: MDSettings,
        generator: StructureGenerator,
        seed: int,
        largest: int | None,
    ) -> TeacherDocument:
        self.check()
        asked = self._key(campaign, trainer, dynamics, generator, seed)
        fields = {"uuid": current_uuid(), "campaign_id": campaign_id, "asked": asked, "seed": seed}
        fields["taught_by"] = self.digest()
        known = find_teacher(current_store(), campaign_id, asked=asked)
        if known is not None:
            return known.model_copy(update={**fields, "made_at": None})
        if self.potential is not None:
            self.check(campaign.elements)
            given = linear_potential(self.potential)
            if isinstance(learner := trainer.learner_of_teacher(campaign.elements), LinearACETrainer):
                refuse_beyond_limit(learner, given, campaign.structures())
            return TeacherDocument(
                **fields, model="ACE", n_functions=dict(given.n_functions), payload={"yaml": given.yaml}
            )
        started = time.perf_counter()
        told = told_calculator(self.static_maker)
        labels: list[Atoms] = []
        n_failed, reasons = 0, list[str]()
        makers: list[Any] = [self.static_maker]
        for asked_for, frames in self._labels(campaign, dynamics, generator, seed, largest, makers):
            before = len(labels)
            try:
                labels.extend(map(_sound, frames))  # those before an error stay
            except Exception as error:  # of any calculator, in any step
                reasons.append(f"{type(error).__name__}: {str(error)[:300]}")
                level = logging.WARNING if reasons.count(reasons[-1]) == 1 else logging.DEBUG  # each reason once
                logger.log(level, "the teacher could not compute a structure: %s", reasons[-1])
                makers.append(replace(makers[-1]))  # makes a new calculator: the old one may be broken
            n_failed += asked_for - (len(labels) - before)
        if len(labels) < _LEAST * (len(labels) + n_failed):
            raise TrainingError(
                f"the teacher {told} could not compute {n_failed} of {len(labels) + n_failed} structures; the first "
                f"time: {reasons[0]}. Mend it, take another one, or leave it out"
            )
        try:
            learner = trainer.learner_of_teacher(campaign.elements)
            result = replace(learner, reference_energies=None).train(
                labels, elements=campaign.elements, seed=derive_seed(seed, SeedPurpose.TEACHER)
            )
        except MLIPError as error:
            raise TrainingError(
                f"the {len(labels)} labels of the teacher {told} could not be learnt: {error}. Take another teacher, "
                "or leave it out"
            ) from error
        record = LinearRecord.of(result.linear)
        assert record is not None  # of all learners
        logger.info("teacher: %d labels, %d failed; %s", len(labels), n_failed, result.log.splitlines()[-2])
        return TeacherDocument(
            **fields,
            model=type(self.static_maker).__name__,
            calculator=told,
            n_labels=len(labels),
            n_failed=n_failed,
            n_functions=dict(result.potential.n_functions),
            left_out=record.errors(len(labels)),
            seconds=time.perf_counter() - started,
            payload={"yaml": result.potential.yaml, "labels": pack([_plain(atoms) for atoms in labels])},
        )

    def _labels(
        self,
        campaign: CampaignDocument,
        dynamics: MDSettings,
        generator: StructureGenerator,
        seed: int,
        largest: int | None,
        makers: Sequence[Maker],
    ) -> Iterator[tuple[int, Iterator[Atoms]]]:
        """Yield runs of labels with the number that is asked of each; the last maker is taken."""
        whole = [atoms for atoms in campaign.structures() if largest is None or len(atoms) <= largest]
        hottest = max(campaign.conditions, key=lambda one: max(one.temperature_at(0.0), one.temperature_at(1.0)))
        kelvin = _HOTTER * max(hottest.temperature_at(0.0), hottest.temperature_at(1.0))
        hotter = Condition(kelvin, hottest.pressure_GPa)
        runs = [(atoms, condition) for atoms in whole for condition in (*campaign.conditions, hotter)]
        n_displaced = math.ceil(self.n_labels * (DISPLACED if runs else 1.0))
        n_of_md = self.n_labels - n_displaced
        for number, (atoms, condition) in enumerate(runs):
            n_frames = n_of_md * (number + 1) // len(runs) - n_of_md * number // len(runs)
            if n_frames == 0:
                continue
            settings = ValidationSettings(n_frames, self.interval_steps, dynamics.timestep_fs)
            try:
                calculator = calculator_for(makers[-1], atoms)
            except Exception as error:  # of any class of calculators
                told = told_calculator(self.static_maker)
                raise TrainingError(
                    f"the teacher {told} cannot be made: {type(error).__name__}: {error}. Mend it, take another one, "
                    "or leave it out"
                ) from error
            is_held = dynamics.ensemble == "npt" and has_stress(boxed(atoms), calculator)
            states = oracle_md_states(
                with_initial_moments(makers[-1], atoms),
                calculator,
                condition,
                settings,
                derive_seed(seed, SeedPurpose.TEACHER, number),
                barostat=dynamics.barostat if is_held else None,
            )
            yield settings.n_frames, (state.frame for state in states)
        each = math.ceil(n_displaced / max(1, len(campaign.structures())))
        more = replace(generator, n_structures=each, n_test=0, isolated_atoms=False, dimers=None)
        for atoms in more.generate(campaign.structures(), seed=derive_seed(seed, SeedPurpose.TEACHER), largest=largest):
            if Provenance.of(atoms).split == Split.TRAIN:
                yield 1, (label_by(makers[-1], one) for one in [atoms])

    def digest(self) -> str:
        """Return what tells the settings of one teacher from those of another, whatever wrote them down."""
        return _hashed(_without_versions(jsanitize(replace(self, name=""), strict=True)))

    def _key(self, campaign: CampaignDocument, *parts: Any) -> str:
        """Return what tells one teaching from another."""
        given = [self, campaign.payload.get("structures"), campaign.conditions, *parts]
        return _hashed(jsanitize(given, strict=True))


def find_teacher(
    store: JobStore, campaign_id: str, taught_by: str | None = None, *, asked: str | None = None, load: bool = True
) -> TeacherDocument | None:
    """
    Return the teacher of a campaign that was taught last; None without one.

    Parameters
    ----------
    store
        A connected JobStore.
    campaign_id
        The campaign.
    taught_by
        The teacher's :meth:`TeachMaker.digest`: others, which were in the settings before, are passed over. None: any.
    asked
        All that was asked of it. None: whatever it was.
    load
        With its potential and labels.
    """
    criteria = {"output.kind": "teacher", "output.campaign_id": campaign_id}
    if asked is not None:
        criteria["output.asked"] = asked
    found = sorted(store.query(criteria, ["output", "completed_at"], load=load), key=time_of)
    documents = [TeacherDocument.model_validate(one["output"]) for one in found]
    return next((d for d in documents[::-1] if taught_by is None or d.taught_by in ("", taught_by)), None)


def label_by(maker: Maker, atoms: Atoms) -> Atoms:
    """
    Return a structure with the label of a teacher.

    Parameters
    ----------
    maker
        Static maker with an ASE calculator, which raises what it likes.
    atoms
        The structure.

    Raises
    ------
    LabelError
        No fit may see the label.
    """
    one = boxed(atoms)
    return _sound(with_label(one, calculator_for(maker, one)))


def told_calculator(maker: Maker | None) -> str:
    """Name a teacher by its calculator and what that is made with."""
    name = str(getattr(maker, "calculator_class", "") or type(maker).__name__).rpartition(".")[2]
    made_with = getattr(maker, "calculator_kwargs", None) or {}
    return name + (f" {json.dumps(jsanitize(made_with))[:300]}" if made_with else "")


def _hashed(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _without_versions(plain: Any) -> Any:
    """Leave out of plain data which versions of packages wrote it."""
    if isinstance(plain, dict):
        return {key: _without_versions(value) for key, value in plain.items() if key != "@version"}
    return [_without_versions(one) for one in plain] if isinstance(plain, (list, tuple)) else plain


def _sound(label: Atoms) -> Atoms:
    """Return a label that a fit may see: with finite numbers, of atoms that are not on top of each other."""
    for name, value in (("positions", label.positions), *label.calc.results.items()):
        if not np.isfinite(value).all():
            raise LabelError(f"{name} of {label.get_chemical_formula()} is not finite")
    if (contact := shortest_contact(label, LABEL_RATIO)) is not None:
        raise LabelError(
            f"{contact[0]}-{contact[1]} come as near as {contact[2]:.2f} A in {label.get_chemical_formula()}; labels "
            f"begin at {contact[3]:.2f} A"
        )
    return label


def _plain(atoms: Atoms) -> dict[str, Any]:
    """Return structure and label as plain data."""
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        **{key: value for key, value in atoms.calc.results.items() if key in ("energy", "forces", "stress")},
    }
