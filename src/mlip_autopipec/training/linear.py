"""Linear ACE by ridge regression: the fast trainer for laptops and tests."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.kinds import TrainerKind
from mlip_autopipec.potentials.basis import LINEAR_CUTOFF, BasisSettings
from mlip_autopipec.potentials.core import CORE_MARGIN, set_core
from mlip_autopipec.potentials.potential import ACEPotential, reference_energy
from mlip_autopipec.training.training import BASIS_TEMPLATE, ACETrainer, FitTask

if TYPE_CHECKING:
    from ase import Atoms


@dataclass
class LinearACETrainer(ACETrainer):
    """
    Closed-form fit of a linear ACE (pyace's ``LinearACEFit``) to all labels.

    The optimum is global, so a fine-tune forgets nothing; ``fine_tune`` keeps the basis of
    the initial potential, with it the meaning of gamma.

    Parameters
    ----------
    energy_weight, force_weight
        Weights in the sum of squares, of an energy per atom (in eV/atom) and of a force
        component (in eV/A).
    ridge
        Strength of the L2 regularisation.
    core_repulsion
        Put a ZBL core below the shortest distance of each pair in the training set.
    core_margin
        How far below that distance (Angstrom) the core begins; see :func:`~mlip_autopipec.potentials.core.set_core`.
    processes
        Worker processes that build the design matrix.
    """

    energy_weight: float = 100.0
    force_weight: float = 1.0
    ridge: float = 1e-6
    core_repulsion: bool = True
    core_margin: float = CORE_MARGIN
    processes: int = 1

    def fit(self, task: FitTask) -> tuple[ACEPotential, str]:
        """Fit; see :meth:`ACETrainer.fit`. New labels weigh as much as old ones."""
        import pandas as pd
        from pyace import ACEBBasisSet, create_multispecies_basis_config
        from pyace.linearacefit import LinearACEDataset, LinearACEFit
        from scipy.linalg import LinAlgWarning
        from sklearn.linear_model import Ridge

        labels = task.labels
        if task.start is None:
            configuration = create_multispecies_basis_config(self.basis.section(task.elements))
        else:
            configuration = task.start.configuration()
        if any(block.ndensityi > 1 for block in configuration.funcspecs_blocks if block.number_of_species == 1):
            raise InvalidInputError("a linear fit needs ndensity 1; use the pacemaker trainer for ndensity 2")
        if self.core_repulsion:
            # below r_in the basis is switched off, so r_in follows the shortest distance known
            set_core(configuration, labels, task.elements, self.core_margin)
        frame = pd.DataFrame(
            {
                "ase_atoms": [_bare(a) for a in labels],
                "energy_corrected": [
                    a.get_potential_energy() - reference_energy(a, task.reference_energies) for a in labels
                ],
                "forces": [a.get_forces() for a in labels],
            }
        )
        dataset = LinearACEDataset(ACEBBasisSet(configuration), frame)
        dataset.construct_design_matrix(max_workers=self.processes)
        n_structures = dataset.total_number_of_structures
        design, target = dataset.get_design_matrix(), dataset.get_target_vector()
        if not np.isfinite(design).all() or not design.any():
            raise TrainingError("the ACE design matrix is empty or not finite; are all atoms farther than the cutoff?")
        of_label = np.asarray(task.weights, dtype=float)
        of_forces = np.repeat(of_label, [3 * len(a) for a in labels])
        weights = np.concatenate([self.energy_weight * of_label, self.force_weight * of_forces])
        model = Ridge(alpha=self.ridge, fit_intercept=False, solver="cholesky")
        fit = LinearACEFit(model=model, train_dataset=dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("error", LinAlgWarning)
            try:
                fit.fit(sample_weight=weights)
            except LinAlgWarning:  # normal equations square the condition number: solve the equations as they are
                model.set_params(solver="svd")
                fit.fit(sample_weight=weights)
        size = f"{design.shape[1]} functions, {n_structures} structures, {len(target)} equations"
        log = f"{size}, ridge {self.ridge:g}, solved by {model.solver}"
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
    default_cutoff_A=LINEAR_CUTOFF,
    gamma_hi=5.0,
    ionic_radial_basis="ChebExpCos",
    keeps_basis=True,
    self_test=LinearACETrainer,
)
