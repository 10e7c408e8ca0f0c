"""Linear ACE by regularised least squares: the fast trainer for laptops and tests."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.kinds import TrainerKind
from mlip_autopipec.potentials.basis import EQUAL_SHARES, LADDER_CUTOFF, LINEAR_FUNCTIONS, BasisSettings, Shares
from mlip_autopipec.potentials.core import CORE_MARGIN, put_core
from mlip_autopipec.potentials.potential import ACEPotential, reference_energy
from mlip_autopipec.processes import in_one_thread
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.training.cutoff import cutoffs_for
from mlip_autopipec.training.results import Fit
from mlip_autopipec.training.training import BASIS_TEMPLATE, ACETrainer, FitTask
from mlip_autopipec.training.weights import FitWeights, at_least_one, positive

if TYPE_CHECKING:
    from ase import Atoms
    from pyace import BBasisConfiguration


#: Weights of version 0.1: of an energy per atom (eV/atom) and of a force component (eV/A), and the ridge.
_PLAIN_ENERGY, _PLAIN_FORCE, _PLAIN_RIDGE = 100.0, 1.0, 1e-6


@dataclass
class LinearACETrainer(ACETrainer):
    """
    Closed-form fit of a linear ACE to energies, forces and stresses of all labels.

    Residuals are divided by what an error is worth. The strength of the regularisation is that of
    largest evidence, and so are the cutoff and the size of the basis, unless ``basis.cutoff`` and
    ``basis.number_of_functions_per_element`` fix them; all follow in closed form (``mlip_autopipec.training``).
    The optimum is global, so a fine-tune forgets nothing. It keeps the basis of the initial potential
    or takes a larger one that contains it; the active set is then built anew.

    Parameters
    ----------
    dimer_weight
        Weight of dimers. Their energies are off by electronvolts, each worth a thousand times the error of a crystal:
        with 1e-3 the forces in copper are 127 meV/A off instead of 3, with 1e-6 again 3, and short distances are learnt
        as well.
    soft_energy_eV_atom
        So far above the most stable labels, in eV/atom, an error is worth twice as much, farther above more, where
        this makes the labels more probable; None: never. Tungsten-beryllium with DFT labels of every kind, up to 50
        eV/atom above the most stable: forces of those within 0.5 eV/atom are 479 meV/A off instead of 998.
    energy_meV_atom, forces_meV_A, stress_GPa
        What an error is worth: of an energy per atom, of a force component, of a stress component, that of a label
        under pressure more (see :func:`~mlip_autopipec.training.design.units_of`). Labels without stress are fitted
        to energy and forces.
    max_us_per_atom_step
        Limit of the cost of MD in microseconds per atom and step, measured by pyace on this machine. Of the bases
        within it the most probable is taken, cutoffs and radial functions among them; a fine-tune may keep the basis
        that is there, and a fit that of its teacher, at up to twice the limit. An error if no basis is within it; a
        teacher that is beyond it is in no fit.
    max_functions_per_element
        Most functions of an element that the labels may choose; None: up to 1200 for one element, see
        :func:`~mlip_autopipec.training.ladder.rungs_within`.
    energy_weight, force_weight, ridge
        The fit of version 0.1, with the basis of 30 functions unless another number is given: weights in the sum
        of squares, of an energy per atom (in eV/atom) and of a force component (in eV/A), a fixed strength
        of the L2 regularisation, no stress. Giving one of them chooses this fit; the others are then 100, 1 and 1e-6.
    core_repulsion
        Put a ZBL core below the shortest distance of each pair in the training set.
    core_margin
        How far below that distance (Angstrom) the core begins; see :func:`~mlip_autopipec.potentials.core.set_core`.
    processes
        Worker processes that build the design matrix; None takes the cores there are, where the work is worth it.
    """

    leaves_labels: ClassVar[bool] = True
    continues_coefficients: ClassVar[bool] = False

    dimer_weight: float = 1e-6
    soft_energy_eV_atom: float | None = 2.0
    energy_weight: float | None = None
    force_weight: float | None = None
    ridge: float | None = None
    core_repulsion: bool = True
    core_margin: float = CORE_MARGIN
    processes: int | None = None
    energy_meV_atom: float = 1.0
    forces_meV_A: float = 100.0
    stress_GPa: float = 0.1
    max_us_per_atom_step: float | None = None
    max_functions_per_element: int | None = None

    def __post_init__(self) -> None:
        """Refuse weights, strengths and limits that are no positive numbers."""
        super().__post_init__()
        positive(self, "energy_meV_atom", "forces_meV_A", "stress_GPa", "energy_weight", "force_weight")
        positive(self, "max_us_per_atom_step", "soft_energy_eV_atom")
        at_least_one(self, "processes", "max_functions_per_element")
        if self.ridge is not None and not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise InvalidInputError.of(
                "LinearACETrainer.ridge", f"is {self.ridge}; it has to be a number of at least 0"
            )
        if not np.isfinite(self.core_margin):
            raise InvalidInputError.of("LinearACETrainer.core_margin", f"is {self.core_margin}; give a number in A")

    @property
    def is_plain(self) -> bool:
        """Whether weights or ridge of version 0.1 are given."""
        return any(value is not None for value in (self.energy_weight, self.force_weight, self.ridge))

    @property
    def fits_stress(self) -> bool:  # type: ignore[override]  # it depends on the weights
        """Whether labels are fitted to their stresses; a fit of version 0.1 does not."""
        return not self.is_plain

    @property
    def gives_error_bars(self) -> bool:
        """Whether its potentials have error bars; a fit of version 0.1 gives none."""
        return not self.is_plain

    @property
    def learns_from_teacher(self) -> bool:
        """Whether a teacher can be its prior mean; a fit of version 0.1 has none."""
        return not self.is_plain

    @property
    def judges_labels(self) -> bool:
        """Whether its fits judge each label by all others; a fit of version 0.1 does not."""
        return not self.is_plain

    @in_one_thread
    def fit(self, task: FitTask) -> tuple[ACEPotential, str] | Fit:
        """Fit; see :meth:`ACETrainer.fit`. New labels weigh as much as old ones."""
        if self.is_plain:
            return self._fit_plain(task)
        from mlip_autopipec.training.linear_fit import fit_linear

        weights = FitWeights(self.energy_meV_atom, self.forces_meV_A, self.stress_GPa)
        found = fit_linear(self, task, weights)
        return Fit(found.potential, found.log, linear=found.record, predicted=found.predicted)

    def with_basis(self, basis: BasisSettings) -> LinearACETrainer:
        """Return the same trainer with another basis."""
        return replace(self, basis=basis)

    def configuration(
        self, task: FitTask, number: int | None = None, shares: Shares = EQUAL_SHARES
    ) -> BBasisConfiguration:
        """
        Return the basis to fit, with its core.

        Parameters
        ----------
        task
            The labels, and the potential to continue from.
        number
            Functions per element; None for the basis of the initial potential, or as the settings say.
        shares
            How they are shared by blocks, of :data:`~mlip_autopipec.potentials.basis.SHARES`.
        """
        if number is None and task.start is not None:
            configuration = task.start.configuration()
        else:
            settings = self.basis
            if number is None and settings.number_of_functions_per_element is None:
                number = LINEAR_FUNCTIONS
            if number is not None and settings.potential_section is None:
                settings = replace(settings, number_of_functions_per_element=number)
            configuration = settings.configuration(task.elements, shares)
        if any(block.ndensityi > 1 for block in configuration.funcspecs_blocks if block.number_of_species == 1):
            raise InvalidInputError("a linear fit needs ndensity 1; use the pacemaker trainer for ndensity 2")
        if self.core_repulsion:
            # below r_in the basis is switched off, so r_in follows the shortest distance known
            put_core(configuration, task.core_radii(self.core_margin))
        return configuration

    def _fit_plain(self, task: FitTask) -> tuple[ACEPotential, str]:
        """Fit as version 0.1 did: fixed ridge, energies and forces."""
        import pandas as pd
        from pyace import ACEBBasisSet
        from pyace.linearacefit import LinearACEDataset, LinearACEFit
        from scipy.linalg import LinAlgWarning
        from sklearn.linear_model import Ridge

        energy_weight = _PLAIN_ENERGY if self.energy_weight is None else self.energy_weight
        force_weight = _PLAIN_FORCE if self.force_weight is None else self.force_weight
        ridge = _PLAIN_RIDGE if self.ridge is None else self.ridge
        labels = task.labels
        frame = pd.DataFrame(
            {
                "ase_atoms": [_bare(a) for a in labels],
                "energy_corrected": [
                    a.get_potential_energy() - reference_energy(a, task.reference_energies) for a in labels
                ],
                "forces": [raw_forces(a) for a in labels],
            }
        )
        dataset = LinearACEDataset(ACEBBasisSet(self.configuration(task)), frame)
        dataset.construct_design_matrix(max_workers=self.processes or 1)
        n_structures = dataset.total_number_of_structures
        design, target = dataset.get_design_matrix(), dataset.get_target_vector()
        if not np.isfinite(design).all() or not design.any():
            raise TrainingError("the ACE design matrix is empty or not finite; are all atoms farther than the cutoff?")
        of_label = np.asarray(task.weights, dtype=float)
        of_forces = np.repeat(of_label, [3 * len(a) for a in labels])
        weights = np.concatenate([energy_weight * of_label, force_weight * of_forces])
        model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
        fit = LinearACEFit(model=model, train_dataset=dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("error", LinAlgWarning)
            try:
                fit.fit(sample_weight=weights)
            except LinAlgWarning:  # normal equations square the condition number: solve the equations as they are
                model.set_params(solver="svd")
                fit.fit(sample_weight=weights)
        size = f"{design.shape[1]} functions, {n_structures} structures, {len(target)} equations"
        log = f"{size}, ridge {ridge:g}, solved by {model.solver}"
        return ACEPotential.from_basis(dataset.get_bbasis(model)), log


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = None
    return copy


KIND = TrainerKind(
    trainer=LinearACETrainer,
    basis=BasisSettings,
    short="seconds",
    about="a linear ACE in closed form, in seconds; the optimum is global.",
    template=BASIS_TEMPLATE,
    default_cutoff_A=LADDER_CUTOFF,
    largest_cutoff_A=lambda structures: max(cutoffs_for(structures)),
    gamma_hi=5.0,
    leaves_out=True,
    keeps_basis=True,
    # the basis of the potential of the self-test stays
    self_test=lambda: LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=15)),
)
