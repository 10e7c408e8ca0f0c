"""What exchanges of atoms (dynamics.swap) reach and MD does not, on copper-gold and CuAgAuNiPd by EMT.

Two campaigns of each system, with and without exchanges, are the same otherwise. Printed are: the short-range order
(Warren-Cowley parameter of nearest neighbours; 0 is random order) of all labels and at the end of MD, labels and halts,
and the force errors of both potentials against EMT on states of Monte Carlo with EMT itself.

    python benchmarks/alloy_swaps.py [--folder FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.database.disk import open_store

#: Lattice constant in A, elements, temperature in K, structures of the first dataset and functions of each system.
SYSTEMS = {
    "copper-gold": (3.85, ["Cu", "Au"], 300.0, 8, 60),
    "CuAgAuNiPd": (3.9, ["Cu", "Ag", "Au", "Ni", "Pd"], 1000.0, 24, 40),
}


def random_alloy(a: float, elements: list[str], seed: int = 3) -> Atoms:
    """Return 32 atoms on the sites of fcc, equal shares of all elements."""
    atoms = bulk("Cu", cubic=True, a=a) * (2, 2, 2)
    symbols = np.resize(elements, len(atoms))
    np.random.default_rng(seed).shuffle(symbols)
    atoms.symbols[:] = symbols
    return atoms


def order(atoms: Atoms, nearest_A: float) -> float:
    """
    Return the short-range order: of the pair of elements that is farthest from random order.

    Warren-Cowley parameter 1 - P(b | a) / c_b of the nearest neighbours; negative where unlike atoms are neighbours.
    """
    i, j = neighbor_list("ij", atoms, nearest_A)
    found = []
    for a in set(atoms.numbers):
        for b in set(atoms.numbers) - {a}:
            share = np.mean(atoms.numbers[j[atoms.numbers[i] == a]] == b)
            expected = np.sum(atoms.numbers == b) / (len(atoms) - 1)
            found.append(1 - share / expected)
    return float(min(found)) if len(set(atoms.numbers)) == 2 else float(np.sqrt(np.mean(np.square(found))))


def run_file(temperature_K: float, n_first: int, n_functions: int, n_steps: int, swap: dict[str, int] | None) -> dict:
    """Return a run file; both campaigns of a system differ in one line."""
    dynamics = {"n_steps": n_steps, "timestep_fs": 2.0, "ensemble": "npt", "gamma_lo": 1.5, "gamma_hi": 4.0}
    if swap is not None:
        dynamics["swap"] = swap
    return {
        "name": "alloy",
        "seed": 1,
        "structures": [{"file": "start.extxyz"}],
        "conditions": [{"temperature_K": temperature_K}],
        "oracle": {"kind": "emt"},
        "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": n_functions, "cutoff": 5.0}},
        "dynamics": dynamics,
        "first_dataset": {"n_structures": n_first, "n_test": 4, "rattle_amplitudes": [0.05, 0.1], "cover_pairs": False},
        "stop": {"max_cycles": 40, "max_labels": 90},
    }


def monte_carlo(atoms: Atoms, temperature_K: float, n_rounds: int, seed: int = 7) -> list[Atoms]:
    """Return states of exchanges and MD by EMT itself: ten attempts, 20 steps of MD, and so on; the second half."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature_K, rng=rng)
    frames = []
    for number in range(n_rounds):
        for _ in range(20):
            i = rng.integers(len(atoms))
            j = rng.choice(np.flatnonzero(atoms.numbers != atoms.numbers[i]))
            before = atoms.get_potential_energy()
            atoms.positions[[i, j]] = atoms.positions[[j, i]]
            if rng.random() > np.exp(-(atoms.get_potential_energy() - before) / (units.kB * temperature_K)):
                atoms.positions[[i, j]] = atoms.positions[[j, i]]
        Langevin(atoms, 2 * units.fs, temperature_K=temperature_K, friction=0.02 / units.fs, rng=rng).run(20)
        if number >= n_rounds // 2 and number % 5 == 0:
            frames.append(atoms.copy())
    return frames


def row(name: str, folder: Path, test: list[Atoms], nearest_A: float) -> str:
    """Return the line of one campaign."""
    store = open_store(folder / "store")
    store.connect()
    campaigns = Campaigns(store)
    (campaign_id,) = campaigns.names()
    final = campaigns.status(campaign_id)
    orders = [order(atoms, nearest_A) for atoms in campaigns.dataset(campaign_id) if len(atoms) > 1]
    walks = campaigns.walks(campaign_id)
    end = order(campaigns.walk([w for w in walks if w.status != "NOT_RUN"][-1].uuid).final_atoms(), nearest_A)
    forces, energies = [], []
    for frame in test:
        theirs, mine = frame.copy(), frame.copy()
        theirs.calc, mine.calc = EMT(), campaigns.calculator(campaign_id)
        forces.append(mine.get_forces() - theirs.get_forces())
        energies.append((mine.get_potential_energy() - theirs.get_potential_energy()) / len(frame))
    tried, done = (sum(getattr(w, f"n_swaps_{what}") or 0 for w in walks) for what in ("attempted", "accepted"))
    store.close()
    most = max(orders, key=abs)
    rms, rms_energy = (1e3 * float(np.sqrt(np.mean(np.square(x)))) for x in (forces, energies))
    return (
        f"{name:26} {final.n_labels:6} {final.n_halts:5}  {min(orders):6.2f} to {max(orders):.2f} ({most:.2f})  "
        f"{end:9.2f}  {rms:6.1f}  {rms_energy:6.2f}   {final.status}, {done} of {tried} exchanges"
    )


def main() -> None:
    """Run all campaigns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("alloy_swaps"))
    parser.add_argument("--quick", action="store_true", help="1 ps instead of 10")
    options = parser.parse_args()
    n_steps = 500 if options.quick else 5000
    print(f"{'':26} labels halts  order: labels (most)  end of MD   meV/A  meV/atom on Monte Carlo by EMT")
    for system, (a, elements, temperature_K, n_first, n_functions) in SYSTEMS.items():
        start = random_alloy(a, elements)
        test = monte_carlo(start, temperature_K, 20 if options.quick else 120)
        nearest = 0.853 * a
        reached = [order(frame, nearest) for frame in test]
        print(f"{system}: order at the start {order(start, nearest):.2f}, of Monte Carlo by EMT {np.mean(reached):.2f}")
        for name, swap in (("plain MD", None), ("with exchanges", {"every_steps": 50, "attempts": 10})):
            folder = options.folder / system / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "start.extxyz", start)
            path = folder / "run.yaml"
            path.write_text(yaml.safe_dump(run_file(temperature_K, n_first, n_functions, n_steps, swap)))
            command = [sys.executable, "-m", "mlip_autopipec.cli", "run", str(path), "--folder", str(folder / "run")]
            if not (folder / "run" / "result.json").is_file():  # one that is done is read again
                with (folder / "log").open("w") as log:
                    subprocess.run([*command, "--overwrite"], stdout=log, stderr=subprocess.STDOUT, check=False)
            print(row(f"  {name}", folder / "run", test, nearest), flush=True)


if __name__ == "__main__":
    main()
