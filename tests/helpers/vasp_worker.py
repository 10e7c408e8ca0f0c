"""
Labels and a loop by real atomate2 and custodian around the stand-in for VASP.

Each part runs in a process forked from that of the tests, which has imported everything, and leaves ``results.json`` in
its folder. atomate2 and pymatgen have read their settings by then: :func:`run_part` gives the process new ones.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from inspect import Parameter, signature
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from atomate2 import SETTINGS as ATOMATE2
from atomate2.vasp.powerups import (
    add_metadata_to_flow,
    update_user_incar_settings,
    update_user_kpoints_settings,
    update_user_potcar_settings,
)
from atomate2.vasp.run import DEFAULT_HANDLERS, run_vasp
from custodian.vasp.handlers import FrozenJobErrorHandler
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import SETTINGS as PYMATGEN
from pymatgen.io.vasp import Kpoints
from vasp_stand_in import vasp_stand_in_environment
from vasp_stand_in.potcars import make_believe_potcar

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.run_oracle import run_static
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.oracle.extract import extract_label
from mlip_autopipec.oracle.vasp import isolated_atom_maker, vasp_static_maker
from mlip_autopipec.schemas.walk import ProposalDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobflow import Flow

NEGATIVE = "--energy-zero atoms"
POLL = {"polling_time_step": 0.1}
QUICK: dict[str, Any] = {"custodian_kwargs": POLL, "max_errors": 1}
ONCE: dict[str, Any] = {"custodian_kwargs": POLL, "max_errors": 2}
COARSE = {"KSPACING": 0.5}


def shuffled_alloy() -> Atoms:
    """Copper and gold in no order, without any symmetry."""
    atoms = bulk("Cu", cubic=True, a=3.85) * (2, 1, 1)
    atoms.symbols = ["Au", "Cu", "Cu", "Au", "Cu", "Au", "Au", "Cu"]
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def cut_out() -> Atoms:
    """A cell of another size and form, as a cut-out has."""
    atoms = bulk("Cu", cubic=True) * (3, 1, 1)
    atoms.rattle(0.1, seed=4)
    return atoms


def small() -> Atoms:
    """Two atoms: never meets ``--larger-than 3``."""
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    return atoms


def large() -> Atoms:
    """Four atoms."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def atom(symbol: str) -> Atoms:
    atoms = Atoms(symbol, cell=[7.0, 7.5, 8.0], pbc=True)
    atoms.info["origin"] = "isolated_atom"
    return atoms


def new_store() -> JobStore:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


def found_in(store: JobStore, batch: str | None) -> dict[str, Any]:
    labels = store.query({"output.kind": "label"}, ["output"], sort={"output.cycle": 1, "output.index": 1})
    found: dict[str, Any] = {"labels": [d["output"] for d in labels]}
    if batch is not None:
        found["batch"] = store.get_output(batch)
    return found


def label(name: str, options: str, maker: OracleMaker, candidates: Sequence[Atoms]) -> dict[str, Any]:
    """Label as the loop does, in jobs of their own."""
    os.environ["VASP_STAND_IN_OPTIONS"] = options
    for atoms in candidates:
        atoms.info.setdefault("origin", "halted")
    store = new_store()
    proposal = ProposalDocument(
        uuid="proposal",
        n_candidates=len(candidates),
        origins={"halted": len(candidates)},
        seed=0,
        payload={"candidates": pack_frames(list(candidates))},
    )
    store.update({"uuid": "proposal", "index": 1, "output": proposal.model_dump(mode="json")})
    job = maker.make(proposal, "campaign", 1)
    run_locally(job, store=store, create_folders=True, root_dir=Path(name), log=False)
    return found_in(store, job.uuid)


def run_loop(name: str, flow: Flow) -> dict[str, Any]:
    os.environ["VASP_STAND_IN_OPTIONS"] = NEGATIVE
    store = new_store()
    run_locally(flow, store=store, create_folders=True, root_dir=Path(name), log=False)
    last = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1})
    return {**found_in(store, None), "status": last["output"]["status"], "why": last["output"]["why"]}


def quick(incar: dict[str, Any] | None = None, run_vasp: dict[str, Any] | None = None) -> OracleMaker:
    return OracleMaker(static_maker=vasp_static_maker({**COARSE, **(incar or {})}, run_vasp=run_vasp or QUICK))


def loop_with_powerups() -> Flow:
    """A walker that halts once; the settings come by powerups to the Flow, after it was made."""
    maker = stand_in_loop(
        oracle_maker=quick(),
        dynamics_maker=ScriptedDynamicsMaker(settings=MDSettings(n_steps=100), halts=[Halt(step=50)]),
    )
    flow = maker.make(bulk("Cu", cubic=True), 300, campaign_id="powerups")
    flow = update_user_incar_settings(flow, {"ENCUT": 333})
    flow = update_user_potcar_settings(flow, {"Cu": "Cu"})
    flow = update_user_kpoints_settings(flow, Kpoints.gamma_automatic((3, 3, 3)))
    return add_metadata_to_flow(flow, {"project": "copper"})


def labels() -> dict[str, Any]:
    """Labels that come out well, or are refused for what they were computed with."""
    default = OracleMaker(
        static_maker=vasp_static_maker(),
        # what suits a metal is not for an atom
        atom_maker=isolated_atom_maker({"KSPACING": 0.3, "ISMEAR": 1, "SIGMA": 0.2, "ISPIN": 1}),
    )
    results = {
        "default": label("default", f"{NEGATIVE} --entropy 0.2", default, [shuffled_alloy(), cut_out(), atom("Cu")]),
        "coarse": label("coarse", NEGATIVE, quick({"ENCUT": 400}), [large()]),
    }
    message = "--fail message --calls first:1 --counter"
    results["corrected"] = label(
        "corrected", f"{NEGATIVE} {message} {Path('c1').absolute()} --message edddav", quick(run_vasp=ONCE), [large()]
    )
    # all of atomate2's handlers: one meets a message and changes what is computed
    everyone = ONCE | {"handlers": list(DEFAULT_HANDLERS)}
    results["other LREAL"] = label(
        "lreal",
        f"{NEGATIVE} {message} {Path('c2').absolute()} --message subspacematrix",
        quick({"LREAL": "Auto"}, everyone),
        [large()],
    )
    results["other SIGMA"] = label(
        "sigma",
        f"{NEGATIVE} {message} {Path('c3').absolute()} --message 'Tetrahedron method fails'",
        quick({"SIGMA": 0.2}, everyone),
        [large()],
    )
    results["not handled"] = label(
        "not-handled",
        f"{NEGATIVE} {message} {Path('c4').absolute()} --message 'Tetrahedron method fails'",
        quick({"SIGMA": 0.2}),
        [large()],
    )
    return results


def failures_of(kinds: Mapping[str, str]) -> dict[str, Any]:
    return {
        kind: label(kind, f"{NEGATIVE} {options} --larger-than 3", quick(), [small(), large()])
        for kind, options in kinds.items()
    }


def more_failures() -> dict[str, Any]:
    """VASP ends in still other ways."""
    return failures_of(
        {
            "exit-code": "--fail exit-code --exit-code 42",
            "crash-at-end": "--fail crash-at-end --exit-code 139",
            "truncated": "--fail truncated",
        }
    )


def failures() -> dict[str, Any]:
    """One of two labels is lost, in each way."""
    results = failures_of(
        {
            "unconverged": "--fail unconverged",
            "killed": "--fail killed",
            "missing": "--fail missing",
            "nan": "--fail nan",
            "message": "--fail message --message edddav",
        }
    )
    frozen = {
        "handlers": [FrozenJobErrorHandler(timeout=1)],
        "custodian_kwargs": POLL | {"monitor_freq": 1},
        "max_errors": 1,
    }
    results["hang"] = label("hang", f"{NEGATIVE} --fail hang", quick(run_vasp=frozen), [large()])
    no_command = quick()
    no_command.atom_maker = isolated_atom_maker(run_vasp=QUICK | {"vasp_cmd": "no-such-vasp", "vasp_gamma_cmd": "nor"})
    results["no executable"] = label("no-executable", NEGATIVE, no_command, [small(), atom("Cu")])
    no_potcar = small()
    no_potcar.symbols[0] = "Al"
    results["no POTCAR"] = label("no-potcar", NEGATIVE, quick(), [small(), no_potcar])
    return results


def powerups() -> dict[str, Any]:
    """A loop whose Flow was changed by powerups."""
    return {"loop": run_loop("loop", loop_with_powerups())}


def read_alone(name: str, maker: Any, atoms: Atoms) -> dict[str, Any]:
    """Run VASP without the look at its input that a label job takes, and read its label."""
    folder = Path(name)
    folder.mkdir()
    with contextlib.chdir(folder):
        try:
            found = extract_label(run_static(maker, atoms)).atoms
        except MLIPError as error:
            return {"error": f"{type(error).__name__}: {error}"}
    results = found.calc.results
    return {
        "energy": results["energy"],
        "stress": np.array(results["stress"]).tolist() if "stress" in results else None,
    }


def tags() -> dict[str, Any]:
    """Tags that change what the numbers mean: read from a run of VASP, and as labels of a campaign."""
    os.environ["VASP_STAND_IN_OPTIONS"] = NEGATIVE
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "PSTRESS": {"PSTRESS": 100},
        "ISIF 0": {"ISIF": 0},
        "ISIF 1": {"ISIF": 1},
    }
    results: dict[str, Any] = {
        f"read {name}": read_alone(f"read-{name}", quick(incar).static_maker, large()) for name, incar in cases.items()
    }
    pressed = OracleMaker(
        static_maker=vasp_static_maker({**COARSE, "PSTRESS": 100}, run_vasp=QUICK),
        atom_maker=isolated_atom_maker({"PSTRESS": 100}, run_vasp=QUICK),
    )
    results["pressed"] = label("pressed", NEGATIVE, pressed, [large(), atom("Cu")])
    results["pressed files"] = sorted(path.name for path in Path("pressed").rglob("*") if path.is_file())
    set_to = [{"dict": "INCAR", "action": {"_set": {"ENCUT": 400, "NCORE": 2}}}]
    override = QUICK | {"vasp_job_kwargs": {"settings_override": set_to}}
    results["override"] = label("override", NEGATIVE, quick(run_vasp=override), [large()])
    return results


def structures() -> dict[str, Any]:
    """Structures with charges, spins and vacuum, and what VASP is told for each."""
    charged = small()
    charged.info.update(charge=1, multiplicity=2)
    ordered = small()
    ordered.set_initial_magnetic_moments([2.0, -2.0])
    layer = fcc111("Cu", (1, 1, 3), vacuum=6)
    layer.pbc = True
    dipole = quick({"LDIPOL": True, "KSPACING": 0.3})
    return {
        "plain": label("plain", NEGATIVE, quick(), [small(), charged, ordered]),
        "dipole": label("dipole", NEGATIVE, dipole, [small(), layer]),
    }


PARTS = {
    "labels": labels,
    "failures": failures,
    "more failures": more_failures,
    "powerups": powerups,
    "tags": tags,
    "structures": structures,
}


def run_part(part: str, folder: Path) -> dict[str, Any]:
    """Run a part in a process with the settings of the stand-in for VASP; return its results."""
    environment = vasp_stand_in_environment(folder / "potcars", elements=["Cu", "Au"])
    potcars = Path(environment["PMG_VASP_PSP_DIR"]) / "POT_PAW_PBE_64"
    (potcars / "POTCAR.Cu").write_text(make_believe_potcar("Cu", "Cu"))  # besides Cu_pv, which MatPES asks for
    process = get_context("fork").Process(target=_run, args=(part, folder, environment))
    process.start()
    process.join(600)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0, (folder / "log").read_text()[-3000:]
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def _run(part: str, folder: Path, environment: Mapping[str, str]) -> None:
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    logging.getLogger().handlers = []
    logging.getLogger("jobflow").handlers = []
    warnings.simplefilter("ignore")
    os.chdir(folder)
    os.environ.update(environment)
    # what atomate2 and pymatgen would have made of this environment
    PYMATGEN["PMG_VASP_PSP_DIR"] = environment["PMG_VASP_PSP_DIR"]
    commands = {name: environment[f"ATOMATE2_{name.upper()}"] for name in ("vasp_cmd", "vasp_gamma_cmd")}
    for name, command in commands.items():
        setattr(ATOMATE2, name.upper(), command)
    takes = [one for one in signature(run_vasp).parameters.values() if one.default is not Parameter.empty]
    run_vasp.__defaults__ = tuple(commands.get(one.name, one.default) for one in takes)
    try:
        results = PARTS[part]()
    except BaseException:
        traceback.print_exc()
        raise
    Path("results.json").write_text(json.dumps(results, default=str))
