"""Errors of labels left out of a linear fit, and what the fit chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from mlip_autopipec.training.linear_record import LinearFitRecord


#: Factors of a teacher within these are those of another level of theory.
_USUAL_FACTORS = (0.5, 2.0)


def factor_doubt(factor: float | None) -> str | None:
    """Return what is most likely wrong with a teacher whose factor is far from one; None if it is not."""
    if factor is None or _USUAL_FACTORS[0] <= factor <= _USUAL_FACTORS[1]:
        return None
    return (
        f"energies of the teacher are taken times {factor:.3g}, outside of {_USUAL_FACTORS[0]:g} to "
        f"{_USUAL_FACTORS[1]:g}: most likely another unit (it has to be eV and A) or a wrong parameter. Its MD visited "
        "other structures than those of the oracle; mend the section teacher, or leave it out"
    )


class RootMeanSquares(BaseModel):
    """Root mean square errors of a potential on a set of labels."""

    n_structures: int = Field(description="Structures measured on.")
    energy_rmse_meV_atom: float = Field(description="Root mean square energy error in meV/atom.")
    forces_rmse_meV_A: float = Field(description="Root mean square error of a force component in meV/A.")
    stress_rmse_GPa: float | None = Field(
        default=None, description="Root mean square error of a stress component in GPa; None without such labels."
    )

    def describe(self) -> str:
        """Return them as a short text."""
        stress = "" if self.stress_rmse_GPa is None else f", {self.stress_rmse_GPa:.2f} GPa"
        return f"{self.energy_rmse_meV_atom:.2f} meV/atom, {self.forces_rmse_meV_A:.1f} meV/A{stress}"


class LeftOutErrors(RootMeanSquares):
    """Errors of labels, each by the fit to all others."""


class LeftOutLikeMD(LeftOutErrors):
    """The same of labels whose energy is one that MD may have."""

    n_atoms: int = Field(description="Atoms of these labels.")
    n_stresses: int = Field(description="How many of these labels have a stress.")


class LinearRecord(BaseModel):
    """What a linear fit chose by the data, and its errors of labels left out of the fit."""

    energy_meV_atom: float = Field(description="What an energy error was worth, meV/atom.")
    forces_meV_A: float = Field(description="What an error of a force component was worth, meV/A.")
    stress_GPa: float = Field(description="What an error of a stress component was worth, GPa.")
    strength: float = Field(description="Strength of the ridge, in units of these errors.")
    n_functions: dict[str, int] = Field(description="Basis functions of each element.")
    us_per_atom_step: float = Field(description="Measured cost of energy and forces, microseconds per atom.")
    energy_left_out_meV_atom: float = Field(description="Root mean square energy error of labels left out, meV/atom.")
    forces_left_out_meV_A: float = Field(description="The same of force components, meV/A.")
    stress_left_out_GPa: float | None = Field(None, description="The same of stress components, GPa.")
    n_left_out: int | None = Field(
        None, description="Labels that these errors are of: all but those that say nothing of the rest, which are told."
    )
    n_left_out_atoms: int | None = Field(None, description="Atoms of these labels; None in earlier versions.")
    n_left_out_stresses: int | None = Field(
        None, description="How many of these labels have a stress; None in earlier versions."
    )
    left_out_like_md: LeftOutLikeMD | None = Field(
        None, description="Of them, those whose energy is one that MD may have; None before a check has told that."
    )
    n_doubtful_stresses: int = Field(0, description="Labels with shear stresses not fitted: they seem permuted.")
    fresh_energy_factor: float = Field(
        1.0, description="Factor of the error bars of energies by the errors of labels before they were trained on."
    )
    fresh_forces_factor: float = Field(1.0, description="The same of forces.")
    teacher_factor: float | None = Field(
        None, description="Factor of the teacher's energies and forces in it; None where no teacher is in it."
    )

    @classmethod
    def of(cls, record: LinearFitRecord | None) -> LinearRecord | None:
        """Take over the record of a fit, None of another trainer."""
        if record is None:
            return None
        return cls(
            **vars(record.weights),
            strength=record.strength,
            n_functions=dict(record.n_functions),
            us_per_atom_step=record.us_per_atom_step,
            energy_left_out_meV_atom=record.left_out.energy_meV_atom,
            forces_left_out_meV_A=record.left_out.forces_meV_A,
            stress_left_out_GPa=record.left_out.stress_GPa,
            n_left_out=record.n_counted,
            n_left_out_atoms=record.n_counted_atoms,
            n_left_out_stresses=record.n_counted_stresses,
            n_doubtful_stresses=len(record.doubtful_stresses),
            fresh_energy_factor=record.posterior.fresh.energy,
            fresh_forces_factor=record.posterior.fresh.forces,
            teacher_factor=record.teacher_factor,
        )

    @property
    def left_out(self) -> tuple[float, float, float | None]:
        """Errors of labels left out of the fit: meV/atom, meV/A, GPa."""
        return self.energy_left_out_meV_atom, self.forces_left_out_meV_A, self.stress_left_out_GPa

    def errors(self, n_labels: int) -> LeftOutErrors:
        """Return these errors, of all of so many labels where an earlier version did not say of how many."""
        energy, forces, stress = self.left_out
        n = n_labels if self.n_left_out is None else self.n_left_out
        return LeftOutErrors(
            n_structures=n, energy_rmse_meV_atom=energy, forces_rmse_meV_A=forces, stress_rmse_GPa=stress
        )

    def describe(self) -> str:
        """Tell the errors of labels left out in a few words."""
        stress = "" if self.stress_left_out_GPa is None else f", {self.stress_left_out_GPa:.2f} GPa"
        functions = "+".join(map(str, self.n_functions.values()))
        taught = "" if self.teacher_factor is None else f", teacher x {self.teacher_factor:.2f}"
        taught += ": another unit?" if factor_doubt(self.teacher_factor) else ""
        return (
            f"left out {self.energy_left_out_meV_atom:.2f} meV/atom {self.forces_left_out_meV_A:.1f} meV/A{stress} "
            f"({functions} functions{taught})"
        )
