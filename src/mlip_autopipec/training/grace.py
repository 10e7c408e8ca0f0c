"""Gradient fit of a GRACE-FS potential by gracemaker, run as a program of its own."""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from monty.json import MSONable

from mlip_autopipec.errors import INSTALL_ACE, InvalidInputError, TrainingError
from mlip_autopipec.kinds import Availability, TrainerKind
from mlip_autopipec.training.grace_files import (  # noqa: F401 - some are known by this module's name
    CHECKPOINT,
    LOG,
    STATE,
    check_fit,
    read_gracemaker,
    read_state,
)
from mlip_autopipec.training.grace_labels import has_stress, label_table, look_at_labels
from mlip_autopipec.training.pacemaker.input import merge
from mlip_autopipec.training.pacemaker.log import fail
from mlip_autopipec.training.program import find_program, run_program
from mlip_autopipec.training.results import Fit
from mlip_autopipec.training.training import ACETrainer, FitTask
from mlip_autopipec.training.weights import (
    FitWeights,
    at_least_one,
    check_earlier_weights,
    mean_square_weights,
    positive,
    worth_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ase import Atoms

#: Weights of the mean square errors of energies (eV^2) and force components (eV^2/A^2) of version 0.1.
_WEIGHTS = (10.0, 1.0)
#: Cutoff in A where nothing tells another one.
_CUTOFF_A = 5.0
#: Optimisers of gracemaker that report each iteration and end at a minimum.
OPTIMIZERS = ("L-BFGS-B", "BFGS")
_OURS = {
    "seed": "the campaign's seed, from which each fit's is derived",
    "cutoff": "basis.cutoff",
    "potential": "basis (its fs_options for further arguments of the preset), and initial_potential",
    "data": "labels: the loop writes the data files, and reference_energies",
}


@dataclass
class GRACEBasis(MSONable):
    """
    Size and shape of a GRACE-FS potential: gracemaker's preset ``FS``.

    Parameters
    ----------
    cutoff
        Cutoff radius in Angstrom; None: that of largest evidence in a linear fit to the labels of the first fit.
    nradmax_by_orders, lmax_by_orders
        Largest radial and angular index per correlation order (``n_rad_max``, ``lmax``). The
        number of functions, and so of atoms in an active set, follows from them and not from the
        number of elements: 70 with the defaults.
    radial_functions
        Radial basis functions from which the radial functions are made (``n_rad_base``).
    embedding_size
        Length of the vectors that stand for the elements.
    fs_parameters
        Prefactor and power of each density in the embedding.
    fs_options
        Further arguments of the preset.
    """

    cutoff: float | None = None
    nradmax_by_orders: list[int] = field(default_factory=lambda: [12, 6, 4])
    lmax_by_orders: list[int] = field(default_factory=lambda: [0, 4, 3])
    radial_functions: int = 8
    embedding_size: int = 8
    fs_parameters: list[list[float]] = field(default_factory=lambda: [[1.0, 1.0], [1.0, 0.5]])
    fs_options: dict[str, Any] = field(default_factory=dict)

    def section(self, elements: Sequence[str]) -> dict[str, Any]:
        """
        Write the ``potential`` section of gracemaker's input for the given elements.

        Raises
        ------
        InvalidInputError
            If no element is named, or the orders disagree.
        """
        symbols = sorted(set(elements))
        if not symbols:
            raise InvalidInputError("GRACEBasis.section: 'elements' is empty; name at least one element")
        orders = len(self.nradmax_by_orders)
        if not 1 <= orders <= 4 or len(self.lmax_by_orders) != orders:
            raise InvalidInputError(
                f"nradmax_by_orders is {self.nradmax_by_orders}, lmax_by_orders {self.lmax_by_orders}; "
                "both need one number for each of 1 to 4 correlation orders"
            )
        kwargs = {
            "max_order": orders,
            "n_rad_max": list(self.nradmax_by_orders),
            "lmax": list(self.lmax_by_orders),
            "n_rad_base": self.radial_functions,
            "embedding_size": self.embedding_size,
            "fs_parameters": [list(pair) for pair in self.fs_parameters],
            # from random mixtures of the radial basis a fit takes twice the iterations
            "crad_init": "delta",
        }
        return {"preset": "FS", "kwargs": kwargs | self.fs_options, "elements": symbols, "param_dtype": "float64"}

    @property
    def n_pair_functions(self) -> int:
        """Functions of each element of the first two orders; gracemaker adds those of higher ones."""
        pairs = zip(self.nradmax_by_orders[:2], self.lmax_by_orders[:2], strict=True)
        return sum(n * (lmax + 1) for n, lmax in pairs)

    def check_atoms(self, labels: Sequence[Atoms]) -> None:
        """
        Refuse labels with too few atoms of an element for an active set, before minutes are spent on a fit.

        Raises
        ------
        TrainingError
            With the element.
        """
        for element, n_atoms in sorted(Counter(symbol for atoms in labels for symbol in atoms.symbols).items()):
            if n_atoms <= self.n_pair_functions:
                raise TrainingError(
                    f"{n_atoms} atoms of {element} in the training set, but GRACE-FS has more than "
                    f"{self.n_pair_functions} functions of each element, and its active set as many atoms. Label more "
                    "or larger structures, or lower basis.nradmax_by_orders"
                )


@dataclass
class GRACEFSTrainer(ACETrainer):
    """
    Fit a GRACE-FS potential by gracemaker (TensorFlow), in a process of its own.

    A fine-tune continues from the parameters of the initial potential on *all* labels, old and
    new, with fewer iterations; they travel inside the potential's own file. MD with such a
    potential runs in the library engine only.

    Parameters
    ----------
    basis
        Size and shape of a potential that is trained from scratch.
    maxiter, fine_tune_maxiter
        Most iterations of a fit from scratch, and of a fine-tune.
    energy_meV_atom, forces_meV_A, stress_GPa
        What an error is worth, as in the linear trainer: of an energy per atom, of a component of force and stress.
        They are translated into weights of the loss by the mean number of atoms of the labels. Those that
        are not given are 1 meV/atom, 100 meV/A and 0.1 GPa.
        Stresses of periodic labels without vacuum are fitted.
    energy_weight, force_weight
        Weights in the loss, of the mean square error of energies per atom (eV^2) and of force components (eV^2/A^2);
        if one is given, the other is 10 or 1, and no stress is fitted. Deprecated.
    optimizer
        "BFGS", or "L-BFGS-B" where the square of the number of parameters is too much memory. Silicon, 20
        labels, 200 iterations: 160 and 244 meV/A on others.
    batch_size
        Structures evaluated at once; bounds the memory, does not change the result.
    jit_compile
        Let XLA compile the model: some seconds more before the first iteration, and a third of the time for each.
    command
        Command that starts gracemaker; by default the script beside the running Python, else
        the one on PATH.
    timeout
        Seconds after which the fit is ended with an error; None: no limit.
    input_sections
        Sections of gracemaker's ``input.yaml`` that are merged over the ones written here, such as
        ``{"fit": {"loss": {"l2_reg": 1e-6}}}``. Data, potential, cutoff and seed are refused.
    """

    dimer_weight: float = 1e-5  # what an error is worth is that of pacemaker's fits
    basis: GRACEBasis = field(default_factory=GRACEBasis)  # type: ignore[assignment]  # all the loop asks for is section
    maxiter: int = 400
    fine_tune_maxiter: int = 100
    energy_weight: float | None = None
    force_weight: float | None = None
    optimizer: str = "BFGS"
    batch_size: int = 32
    jit_compile: bool = True
    command: str | None = None
    timeout: float | None = None
    input_sections: dict[str, Any] = field(default_factory=dict)
    energy_meV_atom: float | None = None
    forces_meV_A: float | None = None
    stress_GPa: float | None = None

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        for key in self.input_sections:
            if key in _OURS:
                raise InvalidInputError(f"input_sections holds '{key}', which belongs to the loop; use {_OURS[key]}")
            if key != "fit" or not isinstance(self.input_sections[key], dict):
                raise InvalidInputError(f"input_sections holds '{key}'; only a section 'fit' with keys can be given")
        optimizer = self.input_sections.get("fit", {}).get("optimizer", self.optimizer)
        if optimizer not in OPTIMIZERS:
            raise InvalidInputError.of(
                "GRACEFSTrainer.optimizer", f"is {optimizer!r}; use one of {', '.join(OPTIMIZERS)}"
            )
        super().__post_init__()
        at_least_one(self, "maxiter", "fine_tune_maxiter", "batch_size")
        positive(self, "energy_weight", "force_weight", "energy_meV_atom", "forces_meV_A", "stress_GPa")
        check_earlier_weights(self, energy_weight=_WEIGHTS[0], force_weight=_WEIGHTS[1])

    @property
    def fits_stress(self) -> bool:  # type: ignore[override]  # it depends on the weights
        """Whether labels are fitted to their stresses; not with the weights of version 0.1."""
        return self.energy_weight is None and self.force_weight is None

    @property
    def worth(self) -> FitWeights:
        """What errors are worth."""
        return worth_of(self) or FitWeights()

    def loss_weights(self, atoms_per_label: float, share_with_stress: float) -> dict[str, float]:
        """Return the weights of the loss for labels of so many atoms on average, so many of which have a stress."""
        if not self.fits_stress:
            energy, forces = _WEIGHTS
            return {
                "energy": energy if self.energy_weight is None else self.energy_weight,
                "forces": forces if self.force_weight is None else self.force_weight,
            }
        energy, forces, stress = mean_square_weights(self.worth, atoms_per_label)
        found = {"energy": energy, "forces": forces}
        return found | {"stress": stress * share_with_stress} if share_with_stress else found

    def functions_given(self, elements: Sequence[str]) -> int:  # noqa: ARG002 - every element has as many
        """Return a lower bound of the functions of each element."""
        return self.basis.n_pair_functions

    def fit(self, task: FitTask) -> Fit:
        """Fit in a fresh subfolder of the task's directory; see :meth:`ACETrainer.fit`."""
        command = find_program(
            "gracemaker",
            self.command,
            f"install gracemaker with {INSTALL_ACE}, give GRACEFSTrainer(command=...), or use LinearACETrainer, which "
            "does not need it",
        )
        if task.start is None:
            self.basis.check_atoms(task.labels)
        state = None if task.start is None else read_state(task.start)
        cutoff = self.basis.cutoff if task.start is None else task.start.cutoff
        told = ""
        doubtful: Collection[int] = ()
        if cutoff is None or (self.fits_stress and any(map(has_stress, task.labels))):
            cutoff, doubtful, told = look_at_labels(task, cutoff)
        table = label_table(task, self.worth.stress_GPa, doubtful)
        task.directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="gracemaker-", dir=task.directory)).resolve()
        table.shares().to_pickle(folder / "train.pckl.gzip", compression="gzip", protocol=4)
        if state is not None:
            (folder / "start").mkdir()
            (folder / "start" / "model.yaml").write_text(state["model"])
            for name in CHECKPOINT:
                (folder / "start" / name).write_bytes(base64.b64decode(state[name]))
        settings = self.input(
            task.elements,
            state is not None,
            fine_tune=task.fine_tune,
            seed=task.seed,
            cutoff_A=cutoff,
            atoms_per_label=table.atoms_per_label,
            share_with_stress=table.share_with_stress,
        )
        (folder / "input.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

        log = run_program("gracemaker", [*command, "input.yaml", "-sf"], folder / LOG, self.timeout)
        results = folder / "seed" / str(task.seed)
        progress = check_fit(
            log, folder / LOG, results, fine_tune=task.fine_tune, batch_size=settings["fit"]["batch_size"]
        )
        used = pd.read_pickle(results / "training_set.pkl.gz")  # noqa: S301 made by this run
        if dropped := sorted(set(table.frame["name"]) - set(used["name"])):
            problem = f"gracemaker left out {len(dropped)} of {len(task.labels)} labels ({', '.join(dropped[:5])})"
            fail(problem, folder / LOG, log, "check the fit section of input_sections")
        return Fit(read_gracemaker(results), told + log, progress)

    def input(
        self,
        elements: Sequence[str],
        has_start: bool,
        *,
        fine_tune: bool,
        seed: int = 0,
        cutoff_A: float | None = None,
        atoms_per_label: float = 32.0,
        share_with_stress: float = 0.0,
    ) -> dict[str, Any]:
        """Return the ``input.yaml`` of a fit as a dictionary."""
        weights = self.loss_weights(atoms_per_label, share_with_stress)
        ours: dict[str, Any] = {
            "seed": int(seed),
            "cutoff": cutoff_A or self.basis.cutoff or _CUTOFF_A,
            # no test set: with one gracemaker keeps the parameters that are best on it, and it is held out no more
            "data": {"filename": "train.pckl.gzip", "reference_energy": 0},
            "potential": self.basis.section(elements),
            "fit": {
                # the weights of the labels are shares already
                "loss": {
                    what: {"weight": weight, "type": "square", "normalize_by_samples": False}
                    for what, weight in weights.items()
                },
                "maxiter": self.maxiter,
                "optimizer": self.optimizer,
                "opt_params": {"maxcor": 100, "maxls": 20} if self.optimizer == "L-BFGS-B" else {"gtol": 1e-8},
                "batch_size": self.batch_size,
                "jit_compile": self.jit_compile,
                "eval_init_stats": True,
                "reset_epoch_and_step": True,
                "checkpoint_freq": 50,
                "progressbar": False,
            },
        }
        merged = merge(ours, self.input_sections)
        if fine_tune:
            merged["fit"]["maxiter"] = self.fine_tune_maxiter
        if has_start:
            merged["potential"] = {
                "filename": "start/model.yaml",
                "elements": list(elements),
                "param_dtype": "float64",
            } | ({"checkpoint_name": "start/checkpoint"} if fine_tune else {})
        return merged


def _look(trainer: Any = None) -> Availability:
    if getattr(trainer, "command", None) is not None:
        return Availability(trainer.command)
    if find_spec("tensorpotential") is None:
        return Availability("tensorpotential is missing", INSTALL_ACE)
    return Availability(f"gracemaker of tensorpotential {version('tensorpotential')}")


KIND = TrainerKind(
    trainer=GRACEFSTrainer,
    basis=GRACEBasis,
    short="GRACE-FS",
    about="GRACE-FS by gracemaker; MD runs in the library engine.",
    template="""\
  maxiter: 400                    # iterations of the first fit
  fine_tune_maxiter: 100          # and of each fine-tune
  # basis:   # without it 70 functions of each element, and the cutoff that the labels choose
  #   cutoff: {{ cutoff }}   # {{ about_cutoff }}
  #   nradmax_by_orders: [12, 6, 4]
  #   lmax_by_orders: [0, 4, 3]
""",
    default_cutoff_A=_CUTOFF_A,
    look=_look,
)
