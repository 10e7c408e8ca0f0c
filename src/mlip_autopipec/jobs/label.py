"""Label: one oracle job per structure, and the count of what came back."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import CURRENT_JOB, Flow, Job, Maker, Response
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError, LabelError, MLIPError
from mlip_autopipec.generate.distances import shortest_contact
from mlip_autopipec.jobs.base import current_uuid, load_document, loop_job
from mlip_autopipec.oracle.extract import extract_label
from mlip_autopipec.oracle.extracted import differs_from
from mlip_autopipec.oracle.record import maker_record, storable
from mlip_autopipec.oracle.static import EMTStaticMaker
from mlip_autopipec.oracle.vasp_failures import explain_failure
from mlip_autopipec.schemas.label import FailedLabel, LabelBatch, LabelDocument
from mlip_autopipec.schemas.walk import Choice, ProposalDocument, SelectionDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.oracle.extracted import ExtractedLabel

logger = logging.getLogger(__name__)


@dataclass
class OracleMaker(Maker):
    """
    Label structures with any atomate2 or ASE static maker.

    Parameters
    ----------
    name
        Name of the jobs.
    static_maker
        The maker of one static calculation: :func:`~mlip_autopipec.oracle.vasp.vasp_static_maker`,
        ``GFNxTBStaticMaker``, :class:`~mlip_autopipec.oracle.static.EMTStaticMaker` ... Powerups apply to it as usual.
    atom_maker
        The same for isolated atoms, which need settings of their own:
        :func:`~mlip_autopipec.oracle.vasp.isolated_atom_maker`. By default ``static_maker``.
    max_failed_fraction
        If more than this share of a cycle's labels fails, the oracle counts as failing and the
        loop ends, saying so.
    minimum_distance_ratio
        Structures with a pair closer than this times its covalent radii are not computed.
    """

    name: str = "label"
    static_maker: Maker = field(default_factory=EMTStaticMaker)
    atom_maker: Maker | None = None
    max_failed_fraction: float = 0.5
    minimum_distance_ratio: float = 0.5

    def check(self) -> None:
        """Refuse what cannot label."""
        for name, maker in (("static_maker", self.static_maker), ("atom_maker", self.atom_maker or self.static_maker)):
            if not isinstance(maker, Maker):
                raise InvalidInputError(
                    f"OracleMaker.{name} is {maker!r}; it has to be an atomate2 static maker "
                    "(a jobflow Maker), e.g. EMTStaticMaker()"
                )
        if not 0 <= self.max_failed_fraction <= 1:
            raise InvalidInputError(f"OracleMaker.max_failed_fraction is {self.max_failed_fraction}; it lies in 0 to 1")

    @loop_job(tolerate_failed_inputs=True)
    def make(
        self, source: ProposalDocument | SelectionDocument | None, campaign_id: str, cycle: int
    ) -> Response[LabelBatch]:
        """
        Label all structures of a proposal, or the chosen ones of a selection.

        Replaces itself by one job per structure and one that counts.

        Parameters
        ----------
        source
            A proposal, all of which is labelled, or a selection; None when its job died.
        campaign_id, cycle
            Of the loop.
        """
        if source is None:
            raise MLIPError(f"there is nothing to label in cycle {cycle}: the job that was to choose died")
        choices = _choices(source)
        jobs = []
        for index, choice in enumerate(choices):
            one = self.label(choice, campaign_id, cycle, index)
            one.name = f"label c{cycle:03d} {index:03d}"
            jobs.append(one)
        # a potential without the energy of one of its atoms would be another potential
        atoms = source.candidates() if isinstance(source, ProposalDocument) else []
        required = [i for i, candidate in enumerate(atoms) if candidate.info.get("split") == "reference"]
        counted = self.count([j.output for j in jobs], campaign_id, cycle, required)
        counted.name = f"count labels c{cycle:03d}"
        continue_as_current(counted)
        return Response(replace=Flow([*jobs, counted], name=f"labels c{cycle:03d}"))

    @loop_job()
    def label(self, choice: Choice, campaign_id: str, cycle: int, index: int) -> LabelDocument:
        """Compute one label; a calculation that fails becomes a failed label, not a failed campaign."""
        proposal = load_document(ProposalDocument, choice.source_id)
        candidate = proposal.candidates()[choice.source_index]
        maker = self.maker_of(candidate)
        fields: dict[str, Any] = {
            "uuid": current_uuid(),
            "campaign_id": campaign_id,
            "cycle": cycle,
            "index": index,
            "split": candidate.info.get("split", "train"),
            "origin": candidate.info["origin"],
            "walker": choice.walker,
            "gamma": choice.gamma,
            "source_id": choice.source_id,
            "source_index": choice.source_index,
            "oracle": type(maker).__name__,
            "metadata": storable(getattr(maker, "task_document_kwargs", {}).get("additional_fields") or {}),
            "directory": str(Path.cwd()),
        }
        started = time.perf_counter()
        try:
            label = self.compute(candidate)
        except Exception as error:
            logger.exception("label c%03d %03d failed", cycle, index)
            return LabelDocument(
                **fields,
                state="failed",
                reason=f"{type(error).__name__}: {error}"[:2000],
                formula=candidate.get_chemical_formula(),
                n_atoms=len(candidate),
                seconds=time.perf_counter() - started,
            )
        return LabelDocument.from_labelled(
            label.atoms,
            energy_kind=label.energy_kind,
            computed_with=label.record,
            corrections=list(label.corrections),
            seconds=time.perf_counter() - started,
            **fields,
        )

    def maker_of(self, atoms: Atoms) -> Maker:
        """Return the maker that computes a candidate."""
        alone = atoms.info.get("origin") == "isolated_atom"
        return self.atom_maker if alone and self.atom_maker is not None else self.static_maker

    def compute(self, atoms: Atoms) -> ExtractedLabel:
        """Run the maker of a candidate here and now, and read off its label."""
        contact = shortest_contact(atoms, self.minimum_distance_ratio)
        if contact is not None:
            raise LabelError(
                f"{contact[0]}-{contact[1]} distance {contact[2]:.3f} A is below {contact[3]:.3f} A; not computed"
            )
        bare = atoms.copy()
        bare.calc, bare.info = None, {}
        for name in set(bare.arrays) - {"numbers", "positions"}:
            del bare.arrays[name]
        maker = self.maker_of(atoms)
        label = extract_label(_run_here(maker, bare))
        if (difference := differs_from(bare, label.atoms)) is not None:
            raise LabelError(f"{type(maker).__name__} computed another structure: {difference}")
        return label if label.record is not None else replace(label, record=maker_record(maker))

    @loop_job(tolerate_failed_inputs=True)
    def count(
        self, labels: list[LabelDocument | None], campaign_id: str, cycle: int, required: Sequence[int] = ()
    ) -> LabelBatch:
        """
        Count what came back.

        Parameters
        ----------
        labels
            One for each that was asked for; a job that died leaves None.
        campaign_id, cycle
            Of the loop.
        required
            Indices of those the loop cannot go on without: the isolated atoms.
        """
        failed = []
        for index, label in enumerate(labels):
            if label is None:
                failed.append(FailedLabel(index=index, reason="the job died; see its folder and its manager's log"))
            elif label.state == "failed":
                failed.append(FailedLabel(index=index, reason=label.reason or "unknown"))
        lost = [
            one.model_copy(update={"reason": f"isolated atom: {one.reason}"}) for one in failed if one.index in required
        ]
        failed = [*lost, *(one for one in failed if one.index not in required)]
        n_labelled = len(labels) - len(failed)
        return LabelBatch(
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            n_asked=len(labels),
            n_labelled=n_labelled,
            failed=failed,
            oracle_failing=bool(lost) or n_labelled == 0 or len(failed) > self.max_failed_fraction * len(labels),
            seconds=sum(label.seconds for label in labels if label is not None),
        )


def continue_as_current(successor: Job) -> None:
    """
    Let the last job of an appended flow answer for the job that appended it.

    It takes over the uuid with the next index, which is what jobflow does for a single
    replacing job. References to the present job then resolve to the end of the chain in one
    step, where ``Flow(output=...)`` would add a ``store_inputs`` document per cycle whose
    references nest as deep as there are cycles.
    """
    current = CURRENT_JOB.job
    successor.set_uuid(current.uuid)
    successor.index = current.index + 1
    successor.metadata = {**successor.metadata, **current.metadata}


def _run_here(maker: Maker, atoms: Atoms) -> Any:
    """Run the job of a static maker in this process and this folder; return its document."""
    static = maker.make(AseAtomsAdaptor.get_structure(atoms))
    if not isinstance(static, Job):
        raise LabelError(f"{type(maker).__name__}.make returns a Flow; a label needs a maker of a single job")
    function = getattr(static.function, "original", static.function)
    try:
        # the job's own copy of the maker: what a run leaves on it, such as counts of errors, must not reach the next
        output = function(static.maker or maker, *static.function_args, **static.function_kwargs)
    except Exception as error:
        if isinstance(maker, BaseVaspMaker):
            raise explain_failure(error, Path.cwd(), maker.run_vasp_kwargs) from error
        raise
    return output.output if isinstance(output, Response) else output


def _choices(source: ProposalDocument | SelectionDocument) -> list[Choice]:
    if isinstance(source, ProposalDocument):
        return [Choice(source_id=source.uuid, source_index=i) for i in range(source.n_candidates)]
    return source.choices
