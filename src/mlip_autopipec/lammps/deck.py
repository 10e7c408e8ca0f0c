"""The input deck with which the ``lmp`` command explores, and the names of the files it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.lammps import script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.lammps.types import Condition, MDSettings

INPUT, LOG, SCREEN = "in.lammps", "log.lammps", "screen.log"
STRUCTURE, START_RESTART = "structure.data", "start.restart"
TRACE, FRAMES, LOOKS, FINAL, RESTART = "trace.dat", "frames.dump", "look.*.dump", "final.dump", "final.restart"
#: Last line of a deck that ran to its end, halted or not.
END = "EXPLORATION_END"

#: Columns of the trace file. ``stop`` is 0, or the sum of the :data:`STOP` that apply.
TRACE_COLUMNS = ("step", "temperature", "energy", "pressure", "volume", "gamma", "stop")
#: Why to halt, by weight: the larger one decides.
STOP = {"not_finite": 8, "explosion": 4, "gamma": 2, "core_repulsion": 1}

#: Skin of the neighbour list in Angstrom.
SKIN_A = 1.0
#: Files of the last looks that are kept: the present one, the one before, and one more because
#: LAMMPS counts a look twice when it writes it again at the start of a run.
KEPT_LOOKS = 3
#: Frames between the thresholds that LAMMPS may write for each one that is kept, so that a
#: long run cannot fill the disk.
DUMPED_PER_FRAME = 50

_FULL = "format float %.17g"
_PHASE_SPACE = "id type x y z vx vy vz"


def deck(
    elements: Sequence[str],
    condition: Condition,
    settings: MDSettings,
    *,
    start_step: int,
    from_restart: bool,
    potential: str = "potential.yaml",
    active_set: str = "potential.asi",
) -> list[str]:
    """
    Return the commands of one exploration.

    Parameters
    ----------
    elements
        Of the potential; atom types 1, 2, ... in this order.
    condition, settings
        What to run and when to halt.
    start_step
        Steps already done.
    from_restart
        Start from :data:`START_RESTART` instead of :data:`STRUCTURE`.
    potential, active_set
        The B-basis ``.yaml`` and the ``.asi`` file (the style takes no ``.yace``).
    """
    every = settings.gamma_every
    sources = (None, START_RESTART) if from_restart else (STRUCTURE, None)
    return [
        *script.setup_commands(*sources),
        *script.mass_commands(elements),
        "pair_style pace/extrapolation",
        f"pair_coeff * * {potential} {active_set} {' '.join(elements)}",
        f"neighbor {SKIN_A} bin",
        "neigh_modify every 1 delay 0 check yes",
        *script.dynamics_commands(settings, condition, start_step),
        *_watch_commands(condition, settings),
        *_dump_commands(settings),
        f"thermo {every}",
        "thermo_style custom step temp pe press vol v_gamma v_core",
        "thermo_modify lost error norm no flush yes",
        # `error soft` lets the step's output and the commands after the run happen; `hard` would lose the frame
        f"fix halt all halt {every} v_stop > 0.5 error soft message yes",
        # fix halt never looks at the first step, hence a run of its own for that one; the second
        # run sets nothing up again, so all that it needs has to be defined before the first
        "run 0 post no",
        "variable first equal ${stop}",
        f'if "${{first}} < 0.5" then "run {settings.n_steps - start_step} pre no post no"',
        f"write_dump all custom {FINAL} {_PHASE_SPACE} modify sort id {_FULL}",
        f"write_restart {RESTART}",
        "variable done equal step",
        f'print "{END} step ${{done}}"',
    ]


def _watch_commands(condition: Condition, settings: MDSettings) -> list[str]:
    """Take gamma and the core at every look, say why to stop, write the trace file."""
    every = settings.gamma_every
    tests = {
        # the maximum over gamma would skip a NaN; sums do not
        "not_finite": "((c_thermo_pe + c_thermo_press + c_thermo_temp) * 0 != 0)",
        "explosion": f"(c_thermo_temp > {settings.hottest_allowed_K(condition):.17g})",
        "gamma": f"(v_gamma > {settings.gamma_hi:.17g})",
        "core_repulsion": "(v_core > 0)",  # gamma does not see the core
    }
    values = ["stepnow", "c_thermo_temp", "c_thermo_pe", "c_thermo_press", "volume", "gamma", "stop"]
    line = " ".join(f"${{{v}}}" if not v.startswith("c_") else f"$({v}:%.17g)" for v in values)
    return [
        f"fix grade all pair {every} pace/extrapolation gamma 1 corerep 1",
        "compute worst all reduce max f_grade[1] f_grade[2]",
        "variable gamma equal c_worst[1]",
        "variable core equal c_worst[2]",
        f'variable stop equal "{" + ".join(f"{STOP[name]} * {test}" for name, test in tests.items())}"',
        "variable stepnow equal step",
        "variable volume equal vol",
        f'fix trace all print {every} "{line}" file {TRACE} screen no title "{" ".join(TRACE_COLUMNS)}"',
    ]


def _dump_commands(settings: MDSettings) -> list[str]:
    """
    Dump the last looks, from which a halt takes its frame, and the frames between the thresholds.

    The last looks go to files of their own because memory is gone when LAMMPS stops on lost atoms.
    """
    every = settings.gamma_every
    commands = [
        f"dump looks all custom {every} {LOOKS} {_PHASE_SPACE} f_grade[1]",
        f"dump_modify looks sort id maxfiles {KEPT_LOOKS} {_FULL}",
    ]
    if settings.max_frames > 0:
        stride = max(1, settings.n_steps // every // (DUMPED_PER_FRAME * settings.max_frames))
        commands += [
            f'variable skip equal "(v_gamma <= {settings.gamma_lo:.17g}) || (v_stop > 0.5)"',
            f"dump frames all custom {every * stride} {FRAMES} {_PHASE_SPACE} f_grade[1]",
            f"dump_modify frames sort id skip v_skip {_FULL}",
        ]
    return commands
