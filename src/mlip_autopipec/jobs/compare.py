"""Compare: does the oracle give what the user's own labels say? One or two are computed again before all else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.frames import unpack
from mlip_autopipec.jobs.base import current_uuid, loop_job
from mlip_autopipec.jobs.reuse import find_label
from mlip_autopipec.oracle.comparison import compare_labels
from mlip_autopipec.schemas.label import ComparedLabel, ComparisonDocument, LabelDocument

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.jobs.label import OracleMaker

logger = logging.getLogger(__name__)


@loop_job()
def compare_given(maker: OracleMaker, labels: str, campaign_id: str, after: object = None) -> ComparisonDocument:
    """
    Compute some of the user's own labels again, and refuse them all if they are of another energy surface.

    Parameters
    ----------
    maker
        Of the labels to come.
    labels
        Packed label documents.
    campaign_id
        The campaign they will be used in.
    after
        Output of a job that has to be done before.

    Raises
    ------
    InvalidInputError
        Energies, forces or stresses differ by more than two runs of one calculation do.
    """
    del after
    compared = []
    for given in (LabelDocument.model_validate(one) for one in unpack(labels)):
        own = given.to_atoms()
        try:
            computed = _computed(maker, own)
        except MLIPError as error:  # one that does not converge says nothing of the others
            logger.warning("label %d of the dataset could not be compared with the oracle: %s", given.index, error)
            compared.append(ComparedLabel(index=given.index, formula=given.formula, failed=str(error)[:500]))
            continue
        found = compare_labels(own, computed)
        compared.append(ComparedLabel(index=given.index, formula=given.formula, **found.as_dict()))
        logger.info("label %d of the dataset, computed again: %s", given.index, found)
        if found.differs:
            raise InvalidInputError(
                f"label {given.index} of the dataset ({given.formula}), computed again by {type(maker).__name__}'s "
                f"{type(maker.static_maker).__name__}: {found}. {found.remedy} OracleMaker.n_compared (run file: "
                "oracle.n_compared) = 0 trusts the dataset unseen"
            )
    return ComparisonDocument(uuid=current_uuid(), campaign_id=campaign_id, compared=compared)


def _computed(maker: OracleMaker, atoms: Atoms) -> Atoms:
    known = find_label(maker.keys_of(atoms)) if maker.reuse_labels else None
    return known.to_atoms() if known is not None else maker.compute(atoms).atoms
