"""One calculation of an oracle: who computes a structure, what it is given, the key of it, and its label."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.jobs.run_oracle import given_to_oracle, is_of_vasp, run_static, told_for
from mlip_autopipec.oracle.extract import extract_label
from mlip_autopipec.oracle.extracted import differs_from
from mlip_autopipec.oracle.identity import former_keys, label_key
from mlip_autopipec.oracle.inputs import files_read
from mlip_autopipec.oracle.record import OracleRecord, maker_record, storable
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.structures.distances import shortest_contact
from mlip_autopipec.structures.electrons import charge_of, take_over
from mlip_autopipec.structures.provenance import Origin, Provenance

if TYPE_CHECKING:
    from ase import Atoms
    from jobflow import Maker

    from mlip_autopipec.oracle.extracted import ExtractedLabel

#: There is no default oracle: labels of a test oracle would give a meaningless potential without a message.
NO_ORACLE = (
    "OracleMaker.static_maker is missing, and there is no default: give what computes the labels, for instance "
    "vasp_static_maker(), GFNxTBStaticMaker(), or EMTStaticMaker() to try the loop on Al, Cu, Ag, Au, Ni, Pd or Pt"
)


class Calculation:
    """What an ``OracleMaker`` does for a single structure, in whatever job it is asked to."""

    static_maker: Maker | None
    atom_maker: Maker | None
    minimum_distance_ratio: float

    def maker_of(self, atoms: Atoms) -> Maker:
        """Return the maker that computes a candidate."""
        if self.static_maker is None:
            raise InvalidInputError(NO_ORACLE)
        alone = Provenance.of(atoms).origin == Origin.ISOLATED_ATOM
        return self.atom_maker if alone and self.atom_maker is not None else self.static_maker

    def compute(self, atoms: Atoms) -> ExtractedLabel:
        """Run the maker of a candidate here and now, and read off its label."""
        maker, structure = self.maker_of(atoms), self.given(atoms)
        own = told_for(maker, structure)
        label = extract_label(run_static(maker, structure, own), own.settings)
        if (difference := differs_from(structure, label.atoms)) is not None:
            raise LabelError(f"{type(maker).__name__} computed another structure: {difference}")
        take_over(structure, label.atoms, moments=False)  # those of the atoms that came back may be in another order
        if charge_of(structure) or structure.pbc.sum() != atoms.pbc.sum():
            # of the field of the background that makes a cell neutral, or of a cell with vacuum that was added
            label.atoms.calc.results.pop("stress", None)
        return label if label.record is not None else replace(label, record=self.asked(atoms))

    def key_of(self, atoms: Atoms) -> str:
        """Return the key of a calculation; what another oracle replaces is :meth:`asked`."""
        return label_key(self.given(atoms), self.asked(atoms))

    def given(self, atoms: Atoms) -> Atoms:
        """
        Return what the oracle is given of a structure.

        Raises
        ------
        InvalidInputError
            The structure has a charge, a spin or a magnetic order that the oracle cannot be told.
        """
        return given_to_oracle(self.maker_of(atoms), atoms)

    def keys_of(self, atoms: Atoms) -> list[str]:
        """Return the key of a calculation, and after it those that earlier versions gave it."""
        asked, given = self.asked(atoms), self.given(atoms)
        return [label_key(given, asked), *former_keys(given, asked)]

    def asked(self, atoms: Atoms) -> OracleRecord:
        """Return what the oracle would be asked to do for a structure."""
        maker = self.maker_of(atoms)
        if is_of_vasp(maker):
            from mlip_autopipec.oracle.vasp import asked_of_vasp

            return asked_of_vasp(maker, atoms)
        return maker_record(maker, files_read(maker, atoms))

    def computed(self, candidate: Atoms, fields: dict[str, Any], started: float) -> LabelDocument:
        """
        Compute a label here and now, and make its document.

        Parameters
        ----------
        candidate
            The structure.
        fields
            Of the document, which are no matter of the calculation.
        started
            ``time.perf_counter()`` when its job began.

        Raises
        ------
        LabelError
            The calculation failed, or two atoms are too close.
        """
        maker, contact = self.maker_of(candidate), shortest_contact(candidate, self.minimum_distance_ratio)
        if contact is not None:
            raise LabelError(
                f"{contact[0]}-{contact[1]} distance {contact[2]:.3f} A is below {contact[3]:.3f} A; not computed"
            )
        label = self.compute(candidate)
        return LabelDocument.from_labelled(
            label.atoms,
            oracle=type(maker).__name__,
            metadata=storable(getattr(maker, "task_document_kwargs", {}).get("additional_fields") or {}),
            directory=str(Path.cwd()),
            energy_kind=label.energy_kind,
            computed_with=label.record,
            corrections=list(label.corrections),
            seconds=time.perf_counter() - started,
            **fields,
        )
