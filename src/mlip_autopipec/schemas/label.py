"""Labels: structures with energy, forces and stress, whatever code computed them."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Literal
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import BaseModel, Field

from mlip_autopipec.frames import unpack
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.schemas.base import Document, WithPayload
from mlip_autopipec.structures.electrons import CHARGE, MOMENTS, MULTIPLICITY, charge_of, moments_of, multiplicity_of
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class AtomsRecord(BaseModel):
    """A structure as plain, queryable arrays."""

    numbers: list[int] = Field(description="Atomic numbers.")
    positions_A: list[list[float]] = Field(description="Cartesian positions in Angstrom, (n_atoms, 3).")
    cell_A: list[list[float]] = Field(description="Cell vectors as rows in Angstrom, (3, 3).")
    pbc: list[bool] = Field(description="Periodicity along each cell vector.")
    charge_e: int = Field(0, description="Total charge of the cell in e.")
    multiplicity: int | None = Field(None, description="Spin multiplicity; None where it was left to the oracle.")
    initial_moments_muB: list[float] | None = Field(
        None, description="Moments in Bohr magnetons to begin with, (n_atoms,), of labels that a user gave."
    )

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> AtomsRecord:
        """Take numbers, positions, cell and periodicity of an ASE structure."""
        return cls(
            numbers=atoms.numbers.tolist(),
            positions_A=atoms.positions.tolist(),
            cell_A=atoms.cell.array.tolist(),
            pbc=[bool(p) for p in atoms.pbc],
            charge_e=charge_of(atoms),
            multiplicity=multiplicity_of(atoms),
            initial_moments_muB=None if (moments := moments_of(atoms)) is None else moments.tolist(),
        )

    def to_atoms(self) -> Atoms:
        """Return the ASE structure."""
        atoms = Atoms(numbers=self.numbers, positions=self.positions_A, cell=self.cell_A, pbc=self.pbc)
        if self.charge_e:
            atoms.info[CHARGE] = self.charge_e
        if self.multiplicity is not None:
            atoms.info[MULTIPLICITY] = self.multiplicity
        if self.initial_moments_muB is not None:
            atoms.set_array(MOMENTS, np.array(self.initial_moments_muB))
        return atoms


class LabelDocument(Document):
    """
    One oracle calculation, successful or not. The only place where a label is stored.

    Where the same calculation had been done before, the document refers to it by ``reused_from`` and repeats neither
    its structure nor its forces and stress.
    """

    kind: Literal["label", "compared_label"] = Field(
        "label",
        description="compared_label: one of the user's own, computed again to compare; found by its key, no part of "
        "the dataset.",
    )
    index: int = Field(description="Number of the label within its cycle.")
    state: Literal["successful", "failed"] = Field(description="Failed labels are never trained on.")
    reason: str | None = Field(None, description="Why it failed.")
    split: Literal["train", "test", "reference", "check"] = Field(
        "train",
        description="Neither held-out labels (test) nor isolated atoms (reference) are trained on; those of a check "
        "(check) are once it has failed.",
    )
    origin: str = Field(
        description="seed..., dimer, halted, cutout, dumped, thermal, displacement, volume, soft_mode, check, "
        "property, or given by the user."
    )
    stands_for: float | None = Field(
        None, description="As how many labels it counts in a fit, where the user gave its structure several times."
    )
    purpose: str | None = Field(None, description="Which point of which property it is for, with origin property.")
    key: str | None = Field(
        None, description="Hash of structure and oracle settings: the same key means the same calculation."
    )
    reused_from: str | None = Field(None, description="uuid of the label that was there already; None if computed.")
    walker: int | None = Field(None, description="Walker whose halt asked for this label.")
    gamma: float | None = Field(None, description="Extrapolation grade of the structure when it was selected.")
    source_id: str | None = Field(None, description="uuid of the proposal that holds the candidate.")
    source_index: int | None = Field(None, description="Place of the candidate in that proposal.")
    oracle: str = Field("", description="Class of the maker that computed the label.")
    computed_with: OracleRecord | None = Field(
        None, description="Level of theory with its fingerprint; None where it is not known."
    )
    corrections: list[str] = Field(
        default_factory=list, description="Errors met and corrected on the way (custodian's), oldest first."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Fields a user added to the documents of the calculation."
    )
    directory: str = Field("", description="Where it was computed; for people, never read by the loop.")
    seconds: float = Field(0.0, description="Wall time in s.")
    formula: str = Field("", description="Chemical formula.")
    n_atoms: int = Field(0, description="Number of atoms.")
    energy_eV: float | None = Field(
        None, description="Total energy in eV, consistent with the forces (see energy_kind)."
    )
    shifted_eV: float | None = Field(
        None, description="What was added to a given energy to bring it to the scale of the oracle, eV; in energy_eV."
    )
    energy_kind: str | None = Field(None, description="free_energy (electronic free energy) or potential_energy.")
    max_force_eV_A: float | None = Field(None, description="Largest force component in eV/A.")
    forces_eV_A: list[list[float]] | None = Field(None, description="Forces in eV/A, (n_atoms, 3).")
    stress_eV_A3: list[float] | None = Field(
        None, description="Stress in eV/A^3, ASE sign (positive = under tension), Voigt xx yy zz yz xz xy."
    )
    magmoms_muB: list[float] | list[list[float]] | None = Field(
        None, description="Magnetic moments in Bohr magnetons, (n_atoms,) or (n_atoms, 3); None without spin."
    )
    atoms: AtomsRecord | None = Field(None, description="The structure in the order of the forces.")

    @classmethod
    def from_labelled(cls, labelled: Atoms, **fields: object) -> LabelDocument:
        """Make a document of a structure that carries its label in an attached calculator."""
        forces = raw_forces(labelled)
        results = labelled.calc.results if labelled.calc is not None else {}
        stress, moments = results.get("stress"), results.get("magmoms")
        return cls.model_validate(
            {
                "state": "successful",
                "formula": labelled.get_chemical_formula(),
                "n_atoms": len(labelled),
                "energy_eV": float(labelled.get_potential_energy()),
                "max_force_eV_A": float(np.abs(forces).max()),
                "forces_eV_A": forces.tolist(),
                "stress_eV_A3": None if stress is None else np.asarray(stress).tolist(),
                "magmoms_muB": None if moments is None else np.asarray(moments).tolist(),
                "atoms": AtomsRecord.from_atoms(labelled),
                **fields,
            }
        )

    @classmethod
    def referring_to(cls, original: LabelDocument, **fields: object) -> LabelDocument:
        """Make a document that refers to an existing label."""
        small = original.model_dump(include=set(_OF_THE_CALCULATION - _LARGE))
        return cls.model_validate({**small, **fields, "state": "successful", "reused_from": original.uuid})

    def filled_from(self, original: LabelDocument) -> LabelDocument:
        """Take over what a reference leaves out."""
        return self.model_copy(update={name: getattr(original, name) for name in _OF_THE_CALCULATION})

    def to_atoms(self) -> Atoms:
        """Return the structure with the label in an attached calculator."""
        shared = self.shared_atoms()
        atoms, calculator = shared.copy(), copy(shared.calc)  # making it anew costs four times as much
        results = shared.calc.results
        calculator.results = {name: np.copy(one) if np.ndim(one) else one for name, one in results.items()}
        atoms.calc = calculator
        return atoms

    def shared_atoms(self) -> Atoms:
        """Return what :meth:`to_atoms` does, made once: it belongs to all who ask, and is not to be changed."""
        if self.reused_from is not None and self.atoms is None:
            raise ValueError(f"label {self.uuid} refers to {self.reused_from}; read it with the dataset")
        if self.atoms is None or self.energy_eV is None:
            raise ValueError(f"label {self.uuid} failed ({self.reason}) and has nothing to give")
        made: Atoms | None = self.__dict__.get(_SHARED)
        if made is None:
            made = self.atoms.to_atoms()
            results = {"energy": self.energy_eV, "free_energy": self.energy_eV, "forces": np.array(self.forces_eV_A)}
            if self.stress_eV_A3 is not None:
                results["stress"] = np.array(self.stress_eV_A3)
            if self.magmoms_muB is not None:
                results["magmoms"] = np.array(self.magmoms_muB)
            made.calc = SinglePointCalculator(made, **results)
            made.info.update(origin=self.origin, cycle=self.cycle, label_id=self.uuid, split=self.split)
            if self.stands_for is not None:
                made.info["stands_for"] = self.stands_for
            if self.shifted_eV is not None:
                made.info[SHIFTED] = self.shifted_eV
            self.__dict__[_SHARED] = made
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return another label; see pydantic."""
        other = super().model_copy(update=update, deep=deep)
        other.__dict__.pop(_SHARED, None)
        return other


#: Entry of ``atoms.info``: what was added to a given energy (eV).
SHIFTED = "energy_shift_eV"
#: Beside the fields of a label, where pydantic neither compares nor stores it.
_SHARED = "shared_atoms_of_label"
#: Fields of a label that belong to the calculation, not to its request; the second those that grow with the atoms.
_OF_THE_CALCULATION = frozenset(
    "key oracle computed_with corrections directory formula n_atoms energy_eV energy_kind max_force_eV_A "
    "forces_eV_A stress_eV_A3 magmoms_muB atoms".split()
)
_LARGE = frozenset("computed_with forces_eV_A stress_eV_A3 magmoms_muB atoms".split())


class AdmissionDocument(Document):
    """The user's decision to accept a flagged outlier."""

    kind: Literal["admission"] = "admission"
    label_id: str = Field(description="uuid of the label.")
    why: str = Field("", description="What the user has to say about it.")


class FailedLabel(BaseModel):
    """A label that was asked for and not obtained."""

    index: int = Field(description="Number of the label within its cycle.")
    required: bool = Field(False, description="Whether the loop cannot go on without it.")
    reason: str = Field(description="Why, in short; the label has the whole reason.")


class LabelBatch(Document):
    """What became of all labels asked for in one cycle; the labels themselves are not repeated."""

    kind: Literal["labels"] = "labels"
    n_asked: int = Field(description="Labels asked for.")
    n_labelled: int = Field(description="Labels obtained.")
    n_reused: int = Field(0, description="Of those, labels that were there already.")
    failed: list[FailedLabel] = Field(default_factory=list, description="Labels dropped, with their reasons.")
    oracle_failing: bool = Field(False, description="Too many failed for the loop to go on.")
    label_ids: list[str] = Field(
        default_factory=list,
        description="uuids of the label documents of this batch, failed ones too; empty in documents of version 0.1.0.",
    )
    seconds: float = Field(0.0, description="Summed wall time of the labels in s.")


class ComparedLabel(BaseModel):
    """A label of the user's own, computed again by the oracle: what that says less what was given."""

    index: int = Field(description="Number of the label in the dataset.")
    formula: str = Field(description="Chemical formula.")
    energy_meV_atom: float | None = Field(None, description="Difference of the energies in meV/atom.")
    energy_given_eV: float | None = Field(None, description="The given energy in eV.")
    forces_rms_meV_A: float | None = Field(None, description="Root mean square of force differences in meV/A.")
    forces_given_rms_meV_A: float | None = Field(None, description="Root mean square of the given forces in meV/A.")
    stress_eV_A3: float | None = Field(None, description="Largest difference of a stress component in eV/A^3.")
    stress_given_eV_A3: float | None = Field(None, description="Largest given stress component in eV/A^3.")
    failed: str | None = Field(None, description="Why it could not be computed; None if it could.")
    forces_times: float | None = Field(
        None, description="By what the given forces are those of the oracle, where one factor explains them."
    )


class ComparisonDocument(Document):
    """How labels of the user's own compare with the oracle."""

    kind: Literal["comparison"] = "comparison"
    compared: list[ComparedLabel] = Field(
        default_factory=list, description="What was computed again, by this job and those before it."
    )
    refused: str | None = Field(None, description="Why the dataset is refused; None if it is not.")
    energy_shift_eV: dict[str, float] | None = Field(
        None, description="What is added to the given energies for each atom of an element, in eV; None: nothing."
    )
    energy_shift_std_eV: dict[str, float] | None = Field(
        None, description="Standard deviation of that, by what the fit leaves, in eV; None where nothing is left over."
    )
    left_meV_atom: float | None = Field(
        None, description="Largest difference of the energies in meV/atom that the shift leaves."
    )
    n_reused: int = Field(0, description="Of the labels, those that were there already.")
    seconds: float = Field(0.0, description="Summed wall time of the labels in s.")

    def describe_shift(self) -> str:
        """Tell what is added to the energies of the dataset; empty where nothing is."""
        if not self.energy_shift_eV:
            return ""
        n = sum(one.energy_meV_atom is not None for one in self.compared)
        told = f"{told_shift(self.energy_shift_eV, self.energy_shift_std_eV or {})} eV per atom, by {n} labels"
        return told if self.left_meV_atom is None else f"{told} (within {self.left_meV_atom:.2g} meV/atom)"


#: Uncertainties of energies are told down to this (eV).
_SHOWN_eV = 1e-4


def told_shift(shift_eV: Mapping[str, float], std_eV: Mapping[str, float]) -> str:
    """Return energies (eV) of elements with their standard deviations in one line."""
    spread = {element: f" +- {max(std, _SHOWN_eV):.1g}" for element, std in std_eV.items()}
    return ", ".join(f"{one} {round(eV, 4) + 0.0:+.4f}{spread.get(one, '')}" for one, eV in shift_eV.items())


class DatasetDocument(WithPayload):
    """Labels a user brought along, or a part of many; ``payload['labels']`` holds them packed."""

    kind: Literal["dataset"] = "dataset"
    part: int = Field(0, description="Number of the part.")
    n_labels: int = Field(description="Number of labels.")
    sha256: str = Field("", description="Of the packed labels: what is imported again is not used twice.")

    def label_ids(self) -> list[str]:
        """Return the uuids of the labels: no job made them, so they follow from what was given, and stay the same."""
        made_of = self.sha256 or self.uuid
        return [str(uuid5(NAMESPACE_OID, f"{made_of} {i}")) for i in range(self.n_labels)]

    def labels(self) -> list[LabelDocument]:
        """Return the labels; needs the payload."""
        packed = zip(unpack(self.bulk("labels")), self.label_ids(), strict=True)
        return [LabelDocument.model_validate({**label, "uuid": uuid}) for label, uuid in packed]
