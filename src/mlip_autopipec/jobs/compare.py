"""Compare: does the oracle give what the user's own labels say? One or two are computed again before all else."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ase.formula import Formula
from monty.json import jsanitize

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import unpack
from mlip_autopipec.jobs.base import current_store, current_uuid, loop_job
from mlip_autopipec.jobs.bulk import patiently
from mlip_autopipec.jobs.reuse import claimed, release
from mlip_autopipec.oracle.comparison import Comparison, compare_labels, fit_shift, is_noise
from mlip_autopipec.oracle.energy_scale import unit_of_energies, why_energies_differ
from mlip_autopipec.schemas.label import ComparedLabel, ComparisonDocument, LabelDocument, told_shift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.jobs.label import OracleMaker

logger = logging.getLogger(__name__)
_TRUST = "OracleMaker.n_compared (run file: oracle.n_compared) = 0 trusts the dataset unseen"


@loop_job()
def compare_given(
    maker: OracleMaker,
    labels: str,
    campaign_id: str,
    after: object = None,
    teachers: Sequence[object] = (),  # noqa: ARG001 - is waited for
    *,
    last: bool = True,
) -> ComparisonDocument:
    """
    Compute some of the user's own labels again, and say whether they are of the oracle's energy surface.

    What is computed is stored at once, and found by its key when the campaign is begun again.

    Parameters
    ----------
    maker
        Of the labels to come.
    labels
        Packed label documents.
    campaign_id
        The campaign they will be used in.
    after
        Output of a job that has to be done before; a comparison is continued, a refused one is passed on.
    teachers
        The teacher of the campaign, which has to have come: one that fails costs no calculation.
    last
        Whether no further label is compared, so that an energy shift can be fitted.

    Returns
    -------
    ComparisonDocument
        ``refused`` if energies, forces or stresses differ by more than two runs of one calculation do. The loop then
        ends with this sentence.
    """
    document = ComparisonDocument(uuid=current_uuid(), campaign_id=campaign_id)
    if isinstance(after, ComparisonDocument):
        carried = {"compared": after.compared, "refused": after.refused}
        document = document.model_copy(update={**carried, "n_reused": after.n_reused, "seconds": after.seconds})
    if document.refused is not None:
        return document
    document.compared = list(document.compared)
    for given in (LabelDocument.model_validate(one) for one in unpack(labels)):
        try:
            computed = _computed(maker, given, campaign_id)
        except MLIPError as error:  # one that does not converge says nothing of the others
            logger.warning("label %d of the dataset could not be compared with the oracle: %s", given.index, error)
            failed = ComparedLabel(index=given.index, formula=given.formula, failed=str(error)[:500])
            document.compared.append(failed)
            continue
        document.n_reused += computed.reused_from is not None
        document.seconds += computed.seconds
        own = given.to_atoms()
        found = compare_labels(own, computed.to_atoms())
        document.compared.append(ComparedLabel(index=given.index, formula=given.formula, **found.as_dict()))
        logger.info("label %d of the dataset, computed again: %s", given.index, found)
        if found.differs_beyond_energy:  # no other label mends that
            document.refused = f"{_told(maker, document.compared[-1])}: {found}. {found.remedy} {_TRUST}"
            return document
    if last:
        _judge_energies(maker, document)
    return document


def _told(maker: OracleMaker, label: ComparedLabel) -> str:
    by = f"{type(maker).__name__}'s {type(maker.static_maker).__name__}"
    return f"label {label.index} of the dataset ({label.formula}), computed again by {by}"


def _judge_energies(maker: OracleMaker, document: ComparisonDocument) -> None:
    """Refuse energies in another unit or of another zero, or fit a shift to them, once all labels are compared."""
    known = [one for one in document.compared if one.energy_meV_atom is not None]
    if maker.energy_shift == "fit" and unit_of_energies(known) is None:
        _fit(document)
        return
    if (why := why_energies_differ(known)) is not None:
        worst = max(known, key=lambda one: abs(one.energy_meV_atom or 0.0))
        document.refused = f"{_told(maker, worst)}: {_differences(worst)}. {why} {_TRUST}"


def _differences(label: ComparedLabel) -> str:
    fields = {field: value for field, value in label.model_dump().items() if field in Comparison.__dataclass_fields__}
    return str(Comparison(**fields))


def _fit(document: ComparisonDocument) -> None:
    """Fit an energy shift to all that was compared, and write it into the document."""
    known = [one for one in document.compared if one.energy_meV_atom is not None]
    if all(is_noise(one.energy_meV_atom or 0.0) for one in known) and known:
        logger.info("the dataset has the oracle's energies already; nothing is shifted")
        return
    n_atoms = [len(list(Formula(one.formula))) for one in known]
    differences = [1e-3 * (one.energy_meV_atom or 0.0) * n for one, n in zip(known, n_atoms, strict=True)]
    try:
        shift = fit_shift([one.formula for one in known], differences)
    except MLIPError as error:
        document.refused = f"{error}; see why the others failed, or raise OracleMaker.n_compared"
        return
    document.energy_shift_std_eV = shift.std or None
    told = told_shift(shift.of_element, shift.std)
    left = shift.left_meV_atom
    if not is_noise(left):
        document.refused = (
            f"a constant for each element (eV: {told}) leaves differences of up to {left:.4g} meV/atom between the "
            f"dataset and the oracle: they are no matter of another zero. Label the dataset with the settings of the "
            f"oracle, or give the oracle those of the dataset. {_TRUST}"
        )
        return
    document.energy_shift_eV, document.left_meV_atom = shift.of_element, left
    logger.warning(
        "the energies of the dataset are shifted by eV per atom: %s; %d labels then agree with the oracle within %.2g "
        "meV/atom",
        told,
        len(known),
        left,
    )


def _computed(maker: OracleMaker, given: LabelDocument, campaign_id: str) -> LabelDocument:
    """Compute a label, or take the one that is there; what is computed is stored beside the labels of the cycles."""
    atoms = given.to_atoms()
    started = time.perf_counter()
    keys = maker.keys_of(atoms)
    fields = {
        "uuid": f"{current_uuid()}-{given.index:05d}",
        "kind": "compared_label",
        "campaign_id": campaign_id,
        "index": given.index,
        "origin": given.origin,
        "split": given.split,
        "key": keys[0],
    }
    if not maker.reuse_labels:
        label = maker.computed(atoms, fields, started)
        _store(label)
        return label
    with claimed(*keys) as existing:
        if existing is not None:
            return existing.model_copy(update={"reused_from": existing.uuid, "seconds": 0.0})
        label = maker.computed(atoms, fields, started)
        _store(label)
    release([label.model_copy(update={"uuid": current_uuid()})])
    return label


def _store(label: LabelDocument) -> None:
    document = {"uuid": label.uuid, "index": 1, "output": jsanitize(label, strict=True, enum_values=True)}
    store = current_store()
    patiently(lambda: store.update(document, key=["uuid", "index"]))
