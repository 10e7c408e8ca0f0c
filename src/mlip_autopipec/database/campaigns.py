"""Results of campaigns, read from the JobStore they were run in."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ase.io
from jobflow import SETTINGS
from pydantic import TypeAdapter

from mlip_autopipec.active_learning.calibration import calibrate
from mlip_autopipec.database.documents import StoredDocuments, labels_in_state, title_of, without_bulk
from mlip_autopipec.database.label_origin import LabelOrigin, candidate_of
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.jobs.dataset import read_comparison, read_labels
from mlip_autopipec.jobs.indexes import create_indexes
from mlip_autopipec.jobs.outliers import accept, read_accepted, read_graded, read_outliers
from mlip_autopipec.jobs.reuse import with_originals
from mlip_autopipec.moved import renamed_keywords, renamed_method
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.check import CheckDocument
from mlip_autopipec.schemas.label import ComparisonDocument, LabelDocument
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument
from mlip_autopipec.schemas.measured import measured_on
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms
    from jobflow import JobStore

    from mlip_autopipec.active_learning.calibration import Calibration
    from mlip_autopipec.potentials.calculators import ACECalculator, GRACEFSCalculator

T = TypeVar("T")
#: ``list``, which is the name of a method below.
List: TypeAlias = list[T]


#: Fields of a label that go with its structure into a dataset, besides those of ``LabelDocument.to_atoms``.
_PROVENANCE = {"campaign_id", "walker", "gamma", "oracle", "energy_kind", "directory", "key", "reused_from"}


class Campaigns:
    """
    All campaigns of a JobStore.

    Parameters
    ----------
    store
        A JobStore; by default the one that jobflow is configured with (``JOBFLOW_CONFIG_FILE``).

    Examples
    --------
    >>> campaigns = Campaigns(store)  # doctest: +SKIP
    >>> to_table(campaigns.list())  # doctest: +SKIP
    >>> atoms.calc = campaigns.calculator("copper")  # doctest: +SKIP
    """

    def __init__(self, store: JobStore | None = None) -> None:
        self.store = SETTINGS.JOB_STORE if store is None else store
        self.store.connect()
        self._documents = StoredDocuments(self.store)

    def list(self, elements: Sequence[str] | None = None) -> List[OTFDocument]:
        """
        Return the status of each campaign, the latest last.

        Parameters
        ----------
        elements
            Only campaigns whose potentials know all of these.
        """
        criteria = {} if elements is None else {"output.elements": {"$all": sorted(set(elements))}}
        return [document for _, document in sorted(map(self._newest, self._names(criteria)), key=itemgetter(0))]

    def status(self, campaign_id: str) -> OTFDocument:
        """Return the status of a campaign: its last assessment; of cycle 0 without a potential before there is one."""
        if campaign_id not in self.names():
            raise self._unknown(campaign_id)
        return self._newest(campaign_id)[1]

    def task(self, campaign_id: str) -> CampaignDocument:
        """Return what a campaign was asked to do, with its structures; of one that was extended the last task."""
        found = self._documents.read(CampaignDocument, "campaign", {"output.campaign_id": campaign_id})
        if not found:
            raise self._unknown(campaign_id)
        return max(found, key=attrgetter("generation"))

    def cycles(self, campaign_id: str) -> List[OTFDocument]:
        """Return all assessments of a campaign, one per cycle; none before the first."""
        found = self._documents.read(OTFDocument, "loop", {"output.campaign_id": campaign_id}, payload=False)
        if not found and campaign_id not in self.names():
            raise self._unknown(campaign_id)
        by_cycle = {document.cycle: document for document in found}  # a rerun assessment replaces the one before
        return [by_cycle[cycle] for cycle in sorted(by_cycle)]

    def names(self) -> List[str]:
        """Return the identifiers of all campaigns."""
        return self._names({})

    def labels(self, campaign_id: str, **criteria: Any) -> List[LabelDocument]:
        """
        Return what was asked of the oracle, failed labels too; nothing of a campaign that is not there (yet).

        Parameters
        ----------
        campaign_id
            The campaign.
        **criteria
            Values of fields of :class:`~mlip_autopipec.schemas.label.LabelDocument`, for
            instance ``state="failed"`` or ``cycle=3``.

        Returns
        -------
        list of LabelDocument
            Where a label was there already (``reused_from``), with the structure, energy and forces of that one.
        """
        return with_originals(self._documents.of_campaign(LabelDocument, "label", campaign_id, criteria), self.store)

    def walks(self, campaign_id: str, **criteria: Any) -> List[WalkDocument]:
        """Return the MD runs, without their frames; ``criteria`` as in :meth:`labels`."""
        return self._documents.of_campaign(WalkDocument, "walk", campaign_id, criteria)

    def halts(self, campaign_id: str) -> List[WalkDocument]:
        """Return the MD runs that halted."""
        return self.walks(campaign_id, status="HALTED")

    def walk(self, walk_id: str) -> WalkDocument:
        """Return one MD run with its frames and its trace."""
        found = self._documents.read(WalkDocument, "walk", {"uuid": walk_id})
        if not found:
            raise MLIPError(f"no walk {walk_id} is in {title_of(self.store)}")
        return found[-1]

    def checks(self, campaign_id: str) -> List[CheckDocument]:
        """Return the comparisons of potentials with labels from halt-free MD, and with properties where asked for."""
        found = self._documents.read(CheckDocument, "check", {"output.campaign_id": campaign_id})
        return sorted(found, key=attrgetter("cycle"))

    def oracle_records(self, campaign_id: str) -> List[OracleRecord]:
        """Return the levels of theory a campaign's labels were computed with; more than one should not be."""
        criteria = labels_in_state(campaign_id, "successful")
        field = "output.computed_with"
        # a label that refers to another has none of its own; jobflow's distinct cannot sort None among strings
        referring = {**criteria, "output.reused_from": {"$ne": None}}
        originals = {"$in": self.store.distinct("output.reused_from", referring)}
        records = {}
        for asked in (criteria, {"uuid": originals}):
            for digest in filter(None, self.store.distinct(f"{field}.sha256", asked)):
                found = self.store.query_one({**asked, f"{field}.sha256": digest}, ["output.computed_with"])
                if found is not None:
                    records[digest] = TypeAdapter(OracleRecord).validate_python(found["output"]["computed_with"])
        return [records[digest] for digest in sorted(records)]

    def potentials(self, campaign_id: str) -> List[PotentialDocument]:
        """Return the potentials with their errors, without their files."""
        return self._documents.of_campaign(PotentialDocument, "potential", campaign_id, {})

    def potential(self, campaign_id: str, cycle: int | None = None) -> PotentialDocument:
        """
        Return one potential with its files (``to_potential().write(folder)``).

        Parameters
        ----------
        campaign_id
            The campaign.
        cycle
            Its cycle; the last one by default. A cycle without new labels keeps the potential before, and so does one
            whose potential is not delivered.
        """
        criteria: dict[str, Any] = {"output.campaign_id": campaign_id}
        if cycle is not None:
            criteria["output.cycle"] = {"$lte": cycle}
        found = self._documents.read(PotentialDocument, "potential", criteria, payload=False)
        if not found:
            of_cycle = "" if cycle is None else f" of cycle {cycle}"
            raise MLIPError(f"campaign '{campaign_id}' has no potential{of_cycle} in {title_of(self.store)}")
        last = max(found, key=lambda document: document.cycle)
        criteria = {"output.campaign_id": campaign_id, "output.n_cycles": last.cycle}
        judged = [d.potential_id for d in self._documents.read(OTFDocument, "loop", criteria, payload=False)]
        kept = next((uuid for uuid in judged[::-1] if uuid is not None), last.uuid)
        return self._documents.read(PotentialDocument, "potential", {"uuid": kept})[-1]

    def calculator(self, campaign_id: str, cycle: int | None = None) -> ACECalculator | GRACEFSCalculator:
        """Return an ASE calculator of a campaign's potential, by default the last one."""
        return self.potential(campaign_id, cycle).to_potential().calculator()

    def teacher(self, campaign_id: str) -> TeacherDocument | None:
        """Return the cheap model that a campaign learnt last, with its free labels; None without one."""
        return self._read_teacher(campaign_id, payload=True)

    def _read_teacher(self, campaign_id: str, uuid: str | None = None, *, payload: bool) -> TeacherDocument | None:
        criteria = {"output.campaign_id": campaign_id} | ({} if uuid is None else {"uuid": uuid})
        found = self._documents.read(TeacherDocument, "teacher", criteria, payload=payload)
        return found[-1] if found else None

    def told_teacher(self, final: PotentialDocument) -> str:
        """Say who taught what a potential holds; empty where it holds nothing of a teacher."""
        factor = final.teacher_factor
        teacher = None if factor is None else self._read_teacher(final.campaign_id, final.teacher_id, payload=False)
        return "" if teacher is None or factor is None else teacher.describe(factor)

    def calibration(self, campaign_id: str, wished_error_eV_A: float = 0.2) -> Calibration:
        """
        Return the calibration of gamma: its correlation with the force error of labels before they were trained on.

        Parameters
        ----------
        campaign_id
            The campaign.
        wished_error_eV_A
            Force error for which the threshold of gamma is sought.
        """
        pairs = read_graded(campaign_id, self.store)
        return calibrate([pair.to_graded() for pair in pairs.values()], wished_error_eV_A)

    def outliers(self, campaign_id: str) -> dict[str, List[str]]:
        """Return the flagged outliers, by uuid with the reasons; accepted ones are left out."""
        accepted = read_accepted(campaign_id, self.store)
        found = read_outliers(campaign_id, self.store)
        return {label: reasons for label, reasons in found.items() if label not in accepted}

    def accept(self, campaign_id: str, label_id: str, why: str = "") -> None:
        """
        Accept a flagged outlier: the next training uses it.

        A campaign that has ended is taken up by :func:`~mlip_autopipec.flows.resume.extend`.

        Parameters
        ----------
        campaign_id
            The campaign.
        label_id
            uuid of the label, from :meth:`outliers`.
        why
            Kept beside it.
        """
        accept(campaign_id, label_id, self.store, why)

    quarantined = renamed_method("quarantined", "outliers")
    admit = renamed_method("admit", "accept")

    def best_potential(self, elements: Sequence[str]) -> PotentialDocument:
        """
        Return the potential of smallest force error among the converged campaigns of just these elements.

        The error is that of held-out labels, or of each label left out of a linear fit. Errors of different sets are
        compared, which says most where the campaigns were run alike; :meth:`list` shows the choice.
        """
        wanted = sorted(set(elements))
        converged = [d for d in self.list(wanted) if d.status == "CONVERGED" and d.potential_id is not None]
        found = {
            document.uuid: errors.forces_rmse_meV_A
            for document in self._documents.read(
                PotentialDocument,
                "potential",
                {"uuid": {"$in": [d.potential_id for d in converged]}, "output.elements": wanted},
                payload=False,
            )
            for what, errors in [measured_on(document)]
            if what != "training" and errors is not None
        }
        if not found:
            raise MLIPError(
                f"no converged campaign with held-out or left-out labels for {'-'.join(wanted)} is in "
                f"{title_of(self.store)}; there are {self.names()}"
            )
        best = min(found, key=lambda uuid: found[uuid])
        return self._documents.read(PotentialDocument, "potential", {"uuid": best})[-1]

    def comparison(self, campaign_id: str) -> ComparisonDocument | None:
        """Return how given labels compare with the oracle, and what their energies are shifted by; None: no labels."""
        return read_comparison(campaign_id, self.store)

    @renamed_keywords(with_quarantined="with_outliers")
    def dataset(self, campaign_id: str, last_cycle: int | None = None, *, with_outliers: bool = False) -> List[Atoms]:
        """
        Return all successful labels as structures, each with its provenance in ``info``.

        ``label_id``, ``cycle``, ``origin``, ``split``, ``walker``, ``gamma``, ``oracle``,
        ``energy_kind``, ``directory``, ``key``, ``reused_from``.

        Parameters
        ----------
        campaign_id
            The campaign.
        last_cycle
            Leave out what later cycles labelled.
        with_outliers
            Return flagged outliers, too.
        """
        frames = []
        for label in read_labels(campaign_id, last_cycle, self.store, with_outliers=with_outliers):
            atoms = label.to_atoms()
            more = label.model_dump(include=_PROVENANCE)
            atoms.info.update({name: value for name, value in more.items() if value is not None})
            frames.append(atoms)
        return frames

    def write_dataset(self, path: str | Path, campaign_id: str, last_cycle: int | None = None) -> int:
        """Write :meth:`dataset` as extended XYZ (eV, eV/A, eV/A^3) and return the number of structures."""
        frames = self.dataset(campaign_id, last_cycle)
        if not frames:
            raise MLIPError(f"campaign '{campaign_id}' has no labels in {title_of(self.store)}")
        ase.io.write(path, frames, format="extxyz")
        return len(frames)

    def trained_on(self, potential_id: str) -> List[LabelDocument]:
        """Return every label that a potential was trained on."""
        found = self._documents.read(PotentialDocument, "potential", {"uuid": potential_id}, payload=False)
        if not found:
            raise MLIPError(f"no potential {potential_id} is in {title_of(self.store)}")
        aside = {label.label_id for label in found[-1].quarantined}
        labels = read_labels(found[-1].campaign_id, found[-1].cycle, self.store)
        return [label for label in labels if label.split in ("train", CHECK) and label.uuid not in aside]

    def origin(self, label_id: str) -> LabelOrigin:
        """Return where a label came from: the oracle's folder, the candidate, and the halt that asked for it."""
        return LabelOrigin.of(label_id, self._documents)

    def candidate(self, label_id: str) -> Atoms:
        """
        Return the structure a label was asked for; of a failed label too, to inspect it or compute it again.

        Parameters
        ----------
        label_id
            uuid of the label.

        Returns
        -------
        ase.Atoms
            Without energy and forces.
        """
        return candidate_of(label_id, self._documents)

    def create_indexes(self) -> bool:
        """Create the indexes these queries use; the first job of each campaign does, too."""
        return create_indexes(self.store)

    def _names(self, criteria: dict[str, Any]) -> List[str]:
        kinds = {"output.kind": {"$in": ["campaign", "loop"]}}
        return sorted(str(name) for name in self.store.distinct("output.campaign_id", {**kinds, **criteria}))

    def _unknown(self, campaign_id: str) -> MLIPError:
        return MLIPError(f"no campaign '{campaign_id}' is in {title_of(self.store)}; there are {self.names()}")

    def _newest(self, campaign_id: str) -> tuple[str, OTFDocument]:
        """Status of a campaign and when it was stored."""
        of_loop = {"output.kind": "loop", "output.campaign_id": campaign_id}
        last = self.store.query_one(of_loop, ["output.cycle"], sort={"output.cycle": -1})
        if last is not None:
            of_cycle = {**of_loop, "output.cycle": last["output"]["cycle"]}
            found = max(self.store.query(of_cycle, ["output", "completed_at"]), key=time_of)
            return found["completed_at"], OTFDocument.model_validate(without_bulk(found["output"]))
        recorded = self.store.query_one(
            {"output.kind": "campaign", "output.campaign_id": campaign_id},
            ["output", "completed_at"],
            sort={"output.generation": -1},
        )
        assert recorded is not None
        task = CampaignDocument.model_validate(without_bulk(recorded["output"]))
        return recorded["completed_at"], OTFDocument(
            campaign_id=campaign_id,
            status=LoopStatus.LEARNING,
            why=f"recorded {task.created_at}, not assessed yet",
            n_cycles=0,
            n_labels=task.n_given_labels + self.store.count(labels_in_state(campaign_id, "successful")),
            n_failed_labels=self.store.count(labels_in_state(campaign_id, "failed")),
            elements=task.elements,
            walkers=[],
            potential_id=None,
            seed=task.seed,
        )
