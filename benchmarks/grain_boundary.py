"""
A copper grain boundary of some 2000 atoms, learnt from labels of at most 150: the loop on cut-outs alone.

The run file beside this script says it all; the structure, two symmetric Sigma 5 (210) tilt boundaries, comes from
pymatgen, not relaxed. EMT can take the whole cell, so the forces of the final potential are compared with EMT on frames
of the last MD, for atoms of the boundaries and of the grains, beside the errors on the labels.

    python benchmarks/grain_boundary.py                                    runs the campaign: minutes
    python benchmarks/grain_boundary.py --structure grain-boundary.extxyz  writes the structure for the run file
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import write
from ase.optimize import FIRE
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from matscipy.neighbours import neighbour_list
from pymatgen.core import Lattice, Structure
from pymatgen.core.interface import GrainBoundaryGenerator
from pymatgen.io.ase import AseAtomsAdaptor
from rich.console import Console
from rich.table import Table

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.cutouts.boxes import shortest_translation
from mlip_autopipec.cutouts.cutout import CutoutError, CutoutGenerator
from mlip_autopipec.cutouts.cutting import evaluate, grading_calculator
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.structures.distort import bare_copy
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

RUN_FILE = Path(__file__).with_suffix(".yaml")
STRUCTURE = "grain-boundary.extxyz"
#: Rotation about [001] that makes Sigma 5, in degrees.
SIGMA_5 = 2 * np.degrees(np.arctan(1 / 3))
LATTICE_A = 3.61
#: Between first and second neighbours of fcc copper (Angstrom).
BONDED_A = 0.854 * LATTICE_A
#: Radii of the cores of cut-outs in units of the potential's cutoff.
BUFFERS = (1.0, 1.5, 2.0)


def grain_boundary(thickness: int = 3, repeat: tuple[int, int, int] = (6, 3, 1)) -> Atoms:
    """Build two symmetric Sigma 5 (210) tilt boundaries, without pairs closer than 2.4 A."""
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(LATTICE_A), ["Cu"], [[0, 0, 0]])
    made = GrainBoundaryGenerator(copper).gb_from_parameters(
        (0, 0, 1), SIGMA_5, expand_times=thickness, plane=(1, 2, 0), rm_ratio=0.7
    )
    atoms = AseAtomsAdaptor.get_atoms(made, msonable=False)
    cell = Atoms(atoms.symbols, scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell.cellpar(), pbc=True)
    return cell.repeat(repeat)


def in_the_grains(atoms: Atoms, potential: ACEPotential) -> np.ndarray:
    """
    Tell the atoms that are fcc, (n_atoms,), by common neighbour analysis after some steps towards rest.

    Each of 12 neighbours shares 4 with an fcc atom, and each of those is bonded to one other of them (signature 421;
    Faken and Jonsson, Comput. Mater. Sci. 2, 279 (1994)).
    """
    quenched = atoms.copy()
    quenched.calc = replace(potential, active_set_inverse={}).calculator()  # gamma takes its time
    FIRE(quenched, logfile=None).run(fmax=0.05, steps=25)
    i, j = neighbour_list("ij", quenched, BONDED_A)
    bonds = [set() for _ in range(len(atoms))]
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        bonds[a].add(b)
    fcc = np.zeros(len(atoms), dtype=bool)
    for a, mine in enumerate(bonds):
        shared = [mine & bonds[b] for b in mine]
        fcc[a] = len(mine) == 12 and all(len(s) == 4 and all(len(s & bonds[c]) == 1 for c in s) for s in shared)
    return fcc


def run(arguments: argparse.Namespace, folder: Path) -> tuple[JobStore, float]:
    """Run the campaign of the run file; return its documents and the wall time in s."""
    atoms = grain_boundary(2, (4, 2, 1)) if arguments.quick else grain_boundary()
    folder.mkdir(parents=True, exist_ok=True)
    closest = min(minimum_distances(atoms).values())
    print(f"{len(atoms)} atoms, cell {atoms.cell.lengths().round(2)} A, shortest distance {closest:.2f} A")
    write(folder / STRUCTURE, atoms)
    content = yaml.safe_load(RUN_FILE.read_text())
    content["seed"] = content["seed"] if arguments.seed is None else arguments.seed
    n_steps = arguments.steps or (500 if arguments.quick else content["dynamics"]["n_steps"])
    content["dynamics"]["n_steps"] = n_steps
    (folder / RUN_FILE.name).write_text(yaml.safe_dump(content))
    campaign = RunFile.load(folder / RUN_FILE.name)
    flow = campaign.maker().make(campaign.load_structures(), campaign.load_conditions(), campaign_id="gb")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    started = time.perf_counter()
    run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    return store, time.perf_counter() - started


def read(store: JobStore, model: type, kind: str) -> list:
    found = store.query({"output.kind": kind}, load=True, sort={"completed_at": 1})
    return [model.model_validate(doc["output"]) for doc in found]


def errors(potential: ACEPotential, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the forces in meV/A, and EMT's own, (n_atoms, 3) each."""
    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc, theirs.calc = potential.calculator(), EMT()
    return 1e3 * (ours.get_forces() - theirs.get_forces()), 1e3 * theirs.get_forces()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structure", type=Path, help="write the structure there, and do nothing else")
    parser.add_argument("--quick", action="store_true", help="a small cell for 1 ps")
    parser.add_argument("--seed", type=int, help="instead of the run file's")
    parser.add_argument("--steps", type=int, help="length of the MD instead of the run file's")
    parser.add_argument("--buffer", action="store_true", help="also how the force on a centre depends on the cut-out")
    parser.add_argument("--keep", type=Path, help="folder for all files, the potential's too")
    arguments = parser.parse_args()
    if arguments.structure is not None:
        write(arguments.structure, grain_boundary())
        return
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("otf", "propose", "check", "label"):
        logging.getLogger(f"mlip_autopipec.{'flows' if name == 'otf' else 'jobs'}.{name}").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        store, seconds = run(arguments, arguments.keep or Path(folder))
    report(store, seconds, arguments.buffer)


def report(store: JobStore, seconds: float, buffer: bool) -> None:
    """Print what came of the campaign."""
    console = Console(width=150)
    final = read(store, OTFDocument, "loop")[-1]
    walks = read(store, WalkDocument, "walk")
    labels = read_labels("gb", store=store)
    potential = final.potential.to_potential()
    console.print(f"{final.status}: {final.why}; {final.n_cycles} cycles, {final.n_halts} halts, {seconds:.0f} s")
    table = Table(title="labels")
    for column in ("origin", "number", "atoms"):
        table.add_column(column, justify="right")
    for origin, number in Counter(label.origin for label in labels).items():
        sizes = [label.n_atoms for label in labels if label.origin == origin]
        table.add_row(origin, str(number), f"{min(sizes)} to {max(sizes)}")
    table.add_row("all", str(len(labels)), f"{min(x.n_atoms for x in labels)} to {max(x.n_atoms for x in labels)}")
    console.print(table)
    table = Table(title="force errors in meV/A")
    for column in ("on", "atoms", "RMSE", "largest", "RMS force"):
        table.add_column(column, justify="right")

    def row(name: str, wrong: np.ndarray, forces: np.ndarray) -> None:
        rms = [f"{np.sqrt(np.mean(x**2)):.1f}" for x in (wrong, forces)]
        table.add_row(name, str(len(wrong)), rms[0], f"{np.linalg.norm(wrong, axis=1).max():.0f}", rms[1])

    for split in ("train", "test", "check"):
        if chosen := [label.to_atoms() for label in labels if label.split == split]:
            found = [errors(potential, atoms) for atoms in chosen]
            row(f"labels: {split}", *(np.concatenate(x) for x in zip(*found, strict=True)))
    checked = [label for label in labels if label.split == "check"]
    proposals = {proposal.uuid: proposal.candidates() for proposal in read(store, ProposalDocument, "proposal")}
    cores: list[tuple[np.ndarray, np.ndarray]] = []
    boundaries: list[tuple[np.ndarray, np.ndarray]] = []
    for label in checked:
        n_core = proposals[label.source_id][label.source_index].info["n_core"]
        wrong, forces = errors(potential, label.to_atoms())
        cores.append((wrong[:n_core], forces[:n_core]))
        boundaries.append((wrong[n_core:], forces[n_core:]))
    for name, parts in (("cores", cores), ("boundaries", boundaries)):
        if parts:
            row(f"labels: check, {name}", *(np.concatenate(x) for x in zip(*parts, strict=True)))
    last = {walk.walker: walk for walk in walks}
    for number, walk in sorted(last.items()):
        frames = [walk.final_atoms(), *walk.dumped_frames()[-2:]]
        wrong, forces = (np.concatenate(x) for x in zip(*(errors(potential, a) for a in frames), strict=True))
        grains = np.concatenate([in_the_grains(a, potential) for a in frames])
        name = f"w{number} {walk.temperature_K:g} K, {len(frames)} whole frames"
        row(f"{name}: all", wrong, forces)
        row(f"{name}: boundaries", wrong[~grains], forces[~grains])
        row(f"{name}: grains", wrong[grains], forces[grains])
    console.print(table)
    if buffer:
        console.print(buffers(potential, last[max(last)].final_atoms()))


def buffers(potential: ACEPotential, atoms: Atoms) -> Table:
    """Compare the force of EMT on the centres of ever larger cut-outs with that in the whole cell."""
    table = Table(title="force on the centre of a cut-out against the whole cell, EMT")
    for column in ("centre", "radius of the core / r_c", "width in A", "atoms", "box", "difference in meV/A"):
        table.add_column(column, justify="right")
    grains = in_the_grains(atoms, potential)
    gamma = compute_gamma(potential, atoms)
    for name, among in (("boundary", ~grains), ("grain", grains)):
        centre = int(np.argmax(np.where(among, gamma, -1.0)))
        for ratio in BUFFERS:
            (point,) = buffer_convergence(atoms, potential, centre, EMT(), ratios=[ratio])
            change = f"{1e3 * point.change:.1f} of {1e3 * np.linalg.norm(point.reference):.0f}"
            table.add_row(name, f"{ratio:g}", f"{point.width:.1f}", str(point.n_atoms), point.box, change)
    return table


@dataclass(frozen=True)
class BufferPoint:
    """
    The force on the centre of a cut-out of one size.

    Parameters
    ----------
    core_radius
        Radius (Angstrom) within which the cut-out is as the large cell.
    width
        Distance (Angstrom) of the centre from its nearest periodic image.
    n_atoms
        Size of the cut-out.
    force
        Force on the centre in eV/A, (3,).
    reference
        The same in the large cell.
    box
        How the box was chosen; see :class:`~mlip_autopipec.cutouts.cutting.Cutout`.
    problems
        Checks that the cut-out fails; it is measured nevertheless.
    """

    core_radius: float
    width: float
    n_atoms: int
    force: NDArray[np.float64]
    reference: NDArray[np.float64]
    box: str
    problems: tuple[str, ...] = ()

    @property
    def change(self) -> float:
        """Length of the difference of the two forces, in eV/A."""
        return float(np.linalg.norm(self.force - self.reference))

    def __repr__(self) -> str:
        """One line for a log."""
        return (
            f"<core {self.core_radius:.2f} A, width {self.width:.2f} A, {self.n_atoms} atoms, {self.box} box: force on "
            f"the centre differs by {self.change:.2e} of {np.linalg.norm(self.reference):.3f} eV/A>"
        )


def buffer_convergence(
    atoms: Atoms,
    potential: ACEPotential,
    centre: int,
    calculator: Calculator | None = None,
    *,
    ratios: Sequence[float] = BUFFERS,
    reference: NDArray[np.float64] | None = None,
    generator: CutoutGenerator | None = None,
    max_atoms: int = 1500,
) -> list[BufferPoint]:
    """
    Compare the force on the centre of ever larger cut-outs with that in the large cell.

    A cut-out is labelled with the forces that it has itself, so a force that is not converged does no harm
    to the fit; it shows how close the label is to one of the large cell.

    Parameters
    ----------
    atoms
        The large cell.
    potential
        Makes the cut-outs.
    centre
        Index of the atom.
    calculator
        Supplies the forces (eV/A): any ASE calculator. The potential's by default.
    ratios
        Radii of the core in units of the cutoff of the potential.
    reference
        Force on the centre in the large cell, (3,), where the calculator cannot take that.
    generator
        Settings of the cut-outs, its core and limit of size apart.
    max_atoms
        No cut-out is larger.

    Returns
    -------
    list of BufferPoint
        One for each ratio.

    Raises
    ------
    CutoutError
        If a cut-out cannot be made at all; those that fail a check are measured.
    """
    calculator = potential.calculator() if calculator is None else calculator
    if reference is None:
        large = bare_copy(atoms)
        large.calc = calculator
        reference = raw_forces(large)[centre]
    gamma = evaluate(grading_calculator(potential), atoms)["gamma"]
    points = []
    for ratio in ratios:
        settings = replace(generator or CutoutGenerator(), core_ratio=float(ratio), max_atoms=max_atoms)
        try:
            cutout = settings.cut(atoms, potential, centre, gamma=gamma)
        except CutoutError as error:
            if error.best is None:
                raise
            cutout = error.best
        cell = bare_copy(cutout.atoms)
        cell.calc = calculator
        force = raw_forces(cell)[cutout.centre]
        width, core = shortest_translation(cell.cell.array), ratio * potential.cutoff
        points.append(BufferPoint(core, width, len(cell), force, reference, cutout.box, cutout.problems))
    return points


if __name__ == "__main__":
    main()
