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

from mlip_autopipec.generate.distances import minimum_distances
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.runfile import RunFile
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from mlip_autopipec.ace.potential import ACEPotential

RUN_FILE = Path(__file__).with_suffix(".yaml")
STRUCTURE = "grain-boundary.extxyz"
#: Rotation about [001] that makes Sigma 5, in degrees.
SIGMA_5 = 2 * np.degrees(np.arctan(1 / 3))
LATTICE_A = 3.61
#: Between first and second neighbours of fcc copper (Angstrom).
BONDED_A = 0.854 * LATTICE_A


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
    quenched.calc = potential.calculator()
    FIRE(quenched, logfile=None).run(fmax=0.05, steps=40)
    i, j = neighbour_list("ij", quenched, BONDED_A)
    bonds = [set() for _ in range(len(atoms))]
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        bonds[a].add(b)
    fcc = np.zeros(len(atoms), dtype=bool)
    for a, mine in enumerate(bonds):
        shared = [mine & bonds[b] for b in mine]
        fcc[a] = len(mine) == 12 and all(len(s) == 4 and all(len(s & bonds[c]) == 1 for c in s) for s in shared)
    return fcc


def run(folder: Path, quick: bool, seed: int | None) -> tuple[JobStore, float]:
    """Run the campaign of the run file; return its documents and the wall time in s."""
    atoms = grain_boundary(2, (4, 2, 1)) if quick else grain_boundary()
    folder.mkdir(parents=True, exist_ok=True)
    closest = min(minimum_distances(atoms).values())
    print(f"{len(atoms)} atoms, cell {atoms.cell.lengths().round(2)} A, shortest distance {closest:.2f} A")
    write(folder / STRUCTURE, atoms)
    content = yaml.safe_load(RUN_FILE.read_text())
    if seed is not None:
        content["seed"] = seed
    if quick:
        content["dynamics"]["n_steps"] = 500
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
        store, seconds = run(arguments.keep or Path(folder), arguments.quick, arguments.seed)
    report(store, seconds)


def report(store: JobStore, seconds: float) -> None:
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

    for split in ("train", "check", "test"):
        if chosen := [label.to_atoms() for label in labels if label.split == split]:
            found = [errors(potential, atoms) for atoms in chosen]
            row(f"labels: {split}", *(np.concatenate(x) for x in zip(*found, strict=True)))
    last = {walk.walker: walk for walk in walks}
    for number, walk in sorted(last.items()):
        frames = [walk.final_atoms(), *walk.dumped_frames()[-4:]]
        wrong, forces = (np.concatenate(x) for x in zip(*(errors(potential, a) for a in frames), strict=True))
        grains = np.concatenate([in_the_grains(a, potential) for a in frames])
        name = f"w{number} {walk.temperature_K:g} K, {len(frames)} whole frames"
        row(f"{name}: all", wrong, forces)
        row(f"{name}: boundaries", wrong[~grains], forces[~grains])
        row(f"{name}: grains", wrong[grains], forces[grains])
    console.print(table)


if __name__ == "__main__":
    main()
