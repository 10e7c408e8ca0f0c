"""Label: one oracle job per structure, and the count of what came back."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Maker, Response
from pydantic import ValidationError
from pymongo.errors import ConnectionFailure

from mlip_autopipec.errors import InvalidInputError, MLIPError, lacks_space
from mlip_autopipec.jobs.base import (
    continue_as_current,
    current_uuid,
    load_document,
    load_either,
    loop_job,
    store_at_once,
)
from mlip_autopipec.jobs.calculation import NO_ORACLE, Calculation
from mlip_autopipec.jobs.failures import keeps_reason, require_teachers
from mlip_autopipec.jobs.label_counts import LabelCounts
from mlip_autopipec.jobs.reuse import claimed, find_label, find_labels, release
from mlip_autopipec.jobs.run_oracle import check_atoms_alike, check_makes_labels, check_settings, doubtful_settings
from mlip_autopipec.oracle.ase_calculators import check_energy_kind
from mlip_autopipec.oracle.suitability import check_calculator
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.schemas.walk import Choice, ProposalDocument, SelectionDocument
from mlip_autopipec.structures.distances import LABEL_RATIO
from mlip_autopipec.structures.electrons import check_one_state, has_total, moments_of, told
from mlip_autopipec.structures.provenance import Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms


logger = logging.getLogger(__name__)

#: Label jobs that one job appends. FireWorks keeps them in one document: 7 to 13 kB each with VASP's maker.
LABELS_PER_JOB = 64


@dataclass
class OracleMaker(Calculation, Maker):
    """
    Label structures with any atomate2 or ASE static maker.

    Parameters
    ----------
    name
        Name of the jobs.
    static_maker
        The maker of one static calculation: :func:`~mlip_autopipec.oracle.vasp.vasp_static_maker`,
        ``GFNxTBStaticMaker``, :class:`~mlip_autopipec.jobs.static.EMTStaticMaker` ... Powerups apply to it as usual.
    atom_maker
        The same for isolated atoms, which need settings of their own:
        :func:`~mlip_autopipec.oracle.vasp.isolated_atom_maker`. By default ``static_maker``.
    max_failed_fraction
        If more than this share of a cycle's labels fails, the oracle counts as failing and the
        loop ends as ORACLE_FAILING.
    minimum_distance_ratio
        Structures with a pair closer than this times its covalent radii are not computed.
    reuse_labels
        Whether a calculation that was done already, in any campaign of the store, is taken instead of done again.
    n_compared
        Of a dataset to start from, so many labels are computed again before anything is trained; if they differ by
        more than noise, the dataset is refused. 0 compares none.
    energy_shift
        ``fit`` adds a constant for each element to the energies of a dataset to start from, fitted to labels that were
        computed again, where their forces agree with the oracle's; ``none`` refuses such a dataset.
    """

    name: str = "label"
    static_maker: Maker | None = None
    atom_maker: Maker | None = None
    max_failed_fraction: float = 0.5
    minimum_distance_ratio: float = LABEL_RATIO
    reuse_labels: bool = True
    n_compared: int = 2
    energy_shift: str = "none"

    def check(self, elements: Sequence[str] = ()) -> None:
        """
        Refuse makers that cannot compute labels.

        Parameters
        ----------
        elements
            Of the campaign.
        """
        if self.static_maker is None:
            raise InvalidInputError(NO_ORACLE)
        for name, maker in (("static_maker", self.static_maker), ("atom_maker", self.atom_maker or self.static_maker)):
            if not isinstance(maker, Maker):
                raise InvalidInputError.of(
                    f"OracleMaker.{name}",
                    f"is {maker!r}; it has to be an atomate2 static maker (a jobflow Maker), for "
                    "instance vasp_static_maker() or GFNxTBStaticMaker()",
                )
            try:
                check_calculator(maker, elements)
            except InvalidInputError as error:
                error.field = error.field or f"OracleMaker.{name}"
                raise
            check_energy_kind(maker)
            if type(self).compute is OracleMaker.compute:  # a stand-in has no use for the job of its maker
                check_makes_labels(maker, elements)
            check_settings(maker, elements)
        if self.atom_maker is not None:
            check_atoms_alike(self.static_maker, self.atom_maker, elements)
        if self.n_compared < 0:
            raise InvalidInputError.of("OracleMaker.n_compared", f"is {self.n_compared}; give a number of labels, or 0")
        if self.energy_shift not in ("none", "fit"):
            raise InvalidInputError.of("OracleMaker.energy_shift", f"is {self.energy_shift!r}; none and fit are known")
        if self.energy_shift == "fit" and self.n_compared == 0:
            raise InvalidInputError.of(
                "OracleMaker.energy_shift", "is fit, and n_compared is 0: there is nothing to fit to; raise n_compared"
            )
        if not 0 <= self.max_failed_fraction <= 1:
            raise InvalidInputError.of(
                "OracleMaker.max_failed_fraction", f"is {self.max_failed_fraction}; it lies in 0 to 1"
            )

    def doubts(self, elements: Sequence[str]) -> list[str]:
        """
        Return what a user should know of the settings of the code before anything is computed, one line each.

        Parameters
        ----------
        elements
            Of the campaign.
        """
        assert self.static_maker is not None
        return [f"oracle: {told}" for told in doubtful_settings(self.static_maker, elements)]

    def check_structures(self, structures: Sequence[Atoms], largest: int | None = None) -> None:
        """
        Refuse structures whose charge, spin or magnetic order the oracle would not compute.

        Parameters
        ----------
        structures
            Of the campaign, and the labels it begins with.
        largest
            Number of atoms above which cut-outs are labelled instead of whole structures, None: never.

        Raises
        ------
        InvalidInputError
            Names the structure, what it has, and what to do.
        """
        check_one_state(structures, "structures and labels")
        dropped = 0
        for atoms in structures:
            if Provenance.of(atoms).split is Split.REFERENCE:
                continue  # a lone atom that is given has its own electrons, and is not computed
            given = self.given(atoms)
            dropped += moments_of(given) is None and moments_of(atoms) is not None
            if has_total(atoms) and largest is not None and len(atoms) > largest:
                raise InvalidInputError.of(
                    "CutoutSettings.max_atoms",
                    f"is {largest}, and {atoms.get_chemical_formula()} of {len(atoms)} atoms has {told(atoms)}: "
                    "nothing says how much of it belongs to a cut-out. Raise max_atoms, so that whole structures are "
                    "labelled, or take a smaller structure",
                )
        if dropped:
            logger.warning(
                "%s takes no moments of single atoms: those of %d structures are not used",
                type(self.static_maker).__name__,
                dropped,
            )

    @loop_job(tolerate_failed_inputs=True)
    @keeps_reason("label")
    def make(
        self,
        source: ProposalDocument | SelectionDocument | str | None,
        campaign_id: str,
        cycle: int,
        begin: int | None = None,
        teachers: Sequence[TeacherDocument | None] = (),
    ) -> Response[LabelBatch]:
        """
        Label all structures of a proposal, or the chosen ones of a selection.

        Replaces itself by one job per structure and one that counts; where there are many, by jobs that do so for a
        part each, since a manager keeps all jobs that one job appends in one document of its database.

        Parameters
        ----------
        source
            A proposal, all of which is labelled, or a selection, or its uuid; None when its job failed.
        campaign_id, cycle
            Of the loop.
        begin
            Number of the first structure of a part; None for all structures.
        teachers
            The teacher of the training to come: labels wait for it, so that one that fails (None) costs none.
        """
        require_teachers(teachers, campaign_id, cycle)
        if source is None:
            raise MLIPError(f"there is nothing to label in cycle {cycle}: the selection job failed")
        if isinstance(source, str):
            source = load_either(SelectionDocument, ProposalDocument, source)
        choices = _choices(source)
        if begin is None and len(choices) > LABELS_PER_JOB:
            return self._in_parts(source, len(choices), campaign_id, cycle)
        first = begin or 0
        choices = choices[first : first + LABELS_PER_JOB]
        candidates = self._candidates(choices)
        keys = [self._keys_or_none(atoms) for atoms in candidates]
        found = find_labels([key for some in keys for key in some]) if self.reuse_labels else {}
        known = [next((found[key].uuid for key in some if key in found), None) for some in keys]
        if n_known := sum(uuid is not None for uuid in known):
            logger.info("%d of %d labels of cycle %d are in the database already", n_known, len(keys), cycle)
        jobs = []
        for index, (choice, uuid) in enumerate(zip(choices, known, strict=True), first):
            one = self.label(choice, campaign_id, cycle, index, reuse_only=uuid is not None, known=uuid)
            one.name = f"{'label' if uuid is None else 'reuse'} c{cycle:03d} {index:03d}"
            jobs.append(one)
        # a potential without the energy of one of its atoms would be another potential
        required = [i for i, atoms in enumerate(candidates, first) if Provenance.of(atoms).split is Split.REFERENCE]
        counted = self.count([j.output for j in jobs], campaign_id, cycle, required, first)
        counted.name = f"count labels c{cycle:03d}"
        continue_as_current(counted)
        return Response(replace=Flow([*jobs, counted], name=f"labels c{cycle:03d}"))

    def _in_parts(
        self, source: ProposalDocument | SelectionDocument, n_labels: int, campaign_id: str, cycle: int
    ) -> Response[LabelBatch]:
        parts = []
        for begin in range(0, n_labels, LABELS_PER_JOB):
            part = self.make(source.uuid, campaign_id, cycle, begin)
            part.name = f"request labels c{cycle:03d} from {begin:03d}"
            parts.append(part)
        counted = self.add_up([part.output for part in parts], n_labels, campaign_id, cycle)
        counted.name = f"add up labels c{cycle:03d}"
        continue_as_current(counted)
        return Response(replace=Flow([*parts, counted], name=f"labels c{cycle:03d}"))

    @loop_job()
    def label(
        self,
        choice: Choice,
        campaign_id: str,
        cycle: int,
        index: int,
        *,
        reuse_only: bool = False,
        known: str | None = None,
    ) -> LabelDocument:
        """
        Compute one label, or refer to the one there is.

        A calculation that fails becomes a failed label, not a failed campaign.

        Parameters
        ----------
        choice
            Which structure.
        campaign_id, cycle, index
            Of the loop, and the number of the label in its cycle.
        reuse_only
            The label is there, and this job may run where no oracle is.
        known
            Its uuid.
        """
        candidate = load_document(ProposalDocument, choice.source_id).candidates()[choice.source_index]
        of = Provenance.of(candidate)
        fields: dict[str, Any] = {
            "uuid": current_uuid(),
            "campaign_id": campaign_id,
            "cycle": cycle,
            "index": index,
            "split": of.split,
            "origin": of.origin,
            "purpose": of.purpose,
            "walker": choice.walker,
            "gamma": choice.gamma,
            "source_id": choice.source_id,
            "source_index": choice.source_index,
        }
        started = time.perf_counter()
        try:
            keys = self.keys_of(candidate)
            fields["key"] = keys[0]
            if not self.reuse_labels:
                return self.computed(candidate, fields, started)
            if reuse_only:
                found = load_document(LabelDocument, known) if known is not None else find_label(keys)
                if found is None:
                    raise MLIPError(
                        "the label that was to be reused is not in the database any more; resume the campaign"
                    )
                return self._referring(found, fields)
            with claimed(*keys) as existing:
                if existing is not None:
                    return self._referring(existing, fields)
                label = self.computed(candidate, fields, started)
                store_at_once(label)  # the claim is good only as long as this process
                return label
        except ConnectionFailure:  # the database is away; that is no failure of this label
            raise
        except Exception as error:
            if lacks_space(error):
                raise
            said = str(error)
            if isinstance(error, ValidationError):  # whose first line says nothing
                said = " ".join(said.split())
            first = (said.strip().splitlines() or [""])[0][:300]
            logger.exception("label c%03d %03d failed: %s: %s", cycle, index, type(error).__name__, first)
            return LabelDocument(
                **fields,
                oracle=type(self.maker_of(candidate)).__name__,
                directory=str(Path.cwd()),
                state="failed",
                reason=f"{type(error).__name__}: {said}"[:2000],
                formula=candidate.get_chemical_formula(),
                n_atoms=len(candidate),
                seconds=time.perf_counter() - started,
            )

    def _referring(self, existing: LabelDocument, fields: dict[str, Any]) -> LabelDocument:
        if existing.uuid == current_uuid():  # this job ran before, and its end was not noticed
            return existing
        logger.debug("label c%03d %03d is %s already", fields["cycle"], fields["index"], existing.uuid)
        return LabelDocument.referring_to(existing, **fields)

    def _keys_or_none(self, atoms: Atoms) -> list[str]:
        try:
            return self.keys_of(atoms)
        except Exception:  # the label's own job will say why
            logger.exception("no key for %s", atoms.get_chemical_formula())
            return []

    def _candidates(self, choices: Sequence[Choice]) -> list[Atoms]:
        sources = sorted({choice.source_id for choice in choices})
        proposals = {source: load_document(ProposalDocument, source).candidates() for source in sources}
        return [proposals[choice.source_id][choice.source_index] for choice in choices]

    @loop_job(tolerate_failed_inputs=True)
    def count(
        self,
        labels: list[LabelDocument | None],
        campaign_id: str,
        cycle: int,
        required: Sequence[int] = (),
        begin: int = 0,
    ) -> LabelBatch:
        """
        Count what came back.

        Parameters
        ----------
        labels
            One for each structure; None for a job that failed.
        campaign_id, cycle
            Of the loop.
        required
            Indices of those the loop cannot go on without: the isolated atoms.
        begin
            Index of the first.
        """
        release([label for label in labels if label is not None])
        return LabelCounts.of(labels, required, begin).to_batch(
            current_uuid(), campaign_id, cycle, self.max_failed_fraction
        )

    @loop_job(tolerate_failed_inputs=True)
    def add_up(self, parts: list[LabelBatch | None], n_asked: int, campaign_id: str, cycle: int) -> LabelBatch:
        """
        Count what came back in all parts.

        Parameters
        ----------
        parts
            Counted each for itself; None where its jobs could not be made.
        n_asked
            Labels asked for in all.
        campaign_id, cycle
            Of the loop.
        """
        counts = LabelCounts.of_parts(parts, n_asked, LABELS_PER_JOB)
        return counts.to_batch(current_uuid(), campaign_id, cycle, self.max_failed_fraction)


def _choices(source: ProposalDocument | SelectionDocument) -> list[Choice]:
    if isinstance(source, ProposalDocument):
        return [Choice(source_id=source.uuid, source_index=i) for i in range(source.n_candidates)]
    return source.choices
