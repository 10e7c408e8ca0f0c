"""Other programs that learn the labels of `head_to_head.py`, each in a Python of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from ase import units
from ase.io import read, write

from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.training.references import fit_reference_energies

#: Settings of gap_fit for all systems: the best of three tried on copper-gold (20 labels; 82 to 110 meV/A).
SIGMAS = "{0.001 0.02 0.01 0.0}"
DISTANCE = "distance_2b cutoff={cutoff} covariance_type=ard_se delta=3.0 theta_uniform=1.0 n_sparse=20 add_species=T"
SOAP = (
    "soap cutoff={cutoff} covariance_type=dot_product zeta=2 delta=1.0 atom_sigma=0.5 l_max=6 n_max=8 "
    "n_sparse=600 sparse_method=cur_points add_species=T"
)
#: Runs in the other Python: energy, forces and stress of frames with a fitted GAP.
PREDICT = """
import sys, numpy as np
from ase.io import read, write
from ase.calculators.singlepoint import SinglePointCalculator
from quippy.potential import Potential
potential, out = Potential(param_filename=sys.argv[1]), []
for atoms in read(sys.argv[2], ":"):
    moving = atoms.copy()
    moving.calc = potential
    results = dict(energy=moving.get_potential_energy(), forces=moving.get_forces(), stress=moving.get_stress())
    atoms.calc = SinglePointCalculator(atoms, **results)
    out.append(atoms)
write(sys.argv[3], out)
"""
#: FLARE's threshold of a label; its example has 0.02, which buys 27 labels in the first 0.5 ps of copper-gold.
FLARE_LABEL_ABOVE = 0.05
#: Of cold copper and gold about 1/(170 GPa), and the time (fs) of the Berendsen barostat. With 1000 fs the cell had not
#: expanded to that of the oracle's MD at 1300 K after 5 ps, by when 40 labels were bought.
COMPRESSIBILITY, BAROSTAT_FS = 1 / (170 * units.GPa), 200.0


def run(command, folder):
    """Run a program in a folder; its last words are told where it fails."""
    done = subprocess.run([str(part) for part in command], check=False, cwd=folder, capture_output=True, text=True)
    (folder / "out.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")


def gap(python, _system, labels, frames):
    """Frames with what a GAP of the same labels says."""
    cutoff = 5.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = []
        for label in labels:
            atoms = label.copy()
            atoms.calc = None
            atoms.info = {"REF_energy": label.get_potential_energy()}
            atoms.arrays["REF_forces"] = label.get_forces()
            stress = label.get_stress(voigt=False)
            atoms.info["REF_virial"] = -stress * atoms.get_volume()
            training.append(atoms)
        write(folder / "train.xyz", training, format="extxyz")
        write(folder / "frames.xyz", [frame.copy() for frame in frames], format="extxyz")
        (folder / "predict.py").write_text(PREDICT)
        references = ":".join(f"{symbol}:{energy}" for symbol, energy in fit_reference_energies(labels).items())
        arguments = [
            "at_file=train.xyz",
            f"gap={{{DISTANCE.format(cutoff=cutoff)} : {SOAP.format(cutoff=cutoff)}}}",
            f"default_sigma={SIGMAS}",
            f"e0={references}",
            "energy_parameter_name=REF_energy",
            "force_parameter_name=REF_forces",
            "virial_parameter_name=REF_virial",
            "sparse_jitter=1e-8",
            "do_copy_at_file=F",
            "gp_file=gap.xml",
        ]
        run([python.parent / "gap_fit", *arguments], folder)
        run([python, "predict.py", "gap.xml", "frames.xyz", "out.xyz"], folder)
        return read(folder / "out.xyz", ":")


def flare_job(python, folder, labels, frames, **job):
    """Run `_peer_flare.py` in a folder."""
    bare = []
    for label in labels:
        bare.append(label.copy())
        bare[-1].info = {}
        bare[-1].calc = label.calc
    write(folder / "first.xyz", bare, format="extxyz")
    write(folder / "frames.xyz", [frame.copy() for frame in frames], format="extxyz")
    (folder / "job.json").write_text(json.dumps(job))
    run([python, Path(__file__).resolve().parent / "_peer_flare.py"], folder)


def flare(python, _system, labels, frames):
    """Frames with what FLARE's sparse Gaussian process of the same labels says."""
    with tempfile.TemporaryDirectory() as name:
        flare_job(python, Path(name), labels, frames, n_steps=0)
        return read(Path(name) / "frames-0.xyz", ":")


def has_flare_loop(system):
    """FLARE's loop is shown with the oracle that comes with ASE, at constant pressure."""
    return isinstance(system.oracle, EMTStaticMaker) and system.ensemble == "npt" and not system.missing


def flare_loop(python, system, seed, first, frames, budgets, picoseconds, kept_in):
    """Number of labels, labels and predictions of FLARE's own loop, at each budget and at its end."""
    folder = kept_in / f"flare-{seed}"
    if not (folder / "finished").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder / "start.xyz", system.atoms, format="extxyz")
        flare_job(python, folder, first, frames, **flare_settings(system, seed, budgets, picoseconds))
        (folder / "finished").touch()
    bought = read(folder / "otf_dft.xyz", ":") if (folder / "otf_dft.xyz").exists() else []
    for path in sorted(folder.glob("frames-*.xyz"), key=lambda path: int(path.stem.partition("-")[2])):
        n = int(path.stem.partition("-")[2])
        yield n, [*first, *bought[:n]], read(path, ":")


def flare_settings(system, seed, budgets, picoseconds):
    """Return what `_peer_flare.py` is told about MD."""
    return {
        "n_steps": round(1000 * picoseconds / system.timestep_fs),
        "timestep_fs": system.timestep_fs,
        "temperature_K": max(system.walkers_K),
        "compressibility_A3_eV": COMPRESSIBILITY,
        "barostat_fs": BAROSTAT_FS,
        "label_above": FLARE_LABEL_ABOVE,
        "seed": seed,
        "budgets": budgets,
    }
