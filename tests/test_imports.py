"""What need not be there is not imported: whoever asks a database or for help needs neither python-ace nor LAMMPS."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Missing())
{run}
"""
RUN = "from typer.testing import CliRunner; from mlip_autopipec.cli import app; r = CliRunner().invoke(app, {0}); "
OK = "assert r.exit_code == 0, (r.output, r.exception)"


def run_in_process(program: str, folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "run",
    [
        "from mlip_autopipec.database.campaigns import Campaigns; assert Campaigns().list() == []",
        f"{RUN.format(['schema'])}{OK}; {RUN.format(['init', '--element', 'Cu'])}{OK}",
    ],
    ids=["database", "run file"],
)
def test_works_without_python_ace_tensorflow_and_lammps(run, tmp_path):
    program = PROGRAM.format(heavy=("pyace", "tensorflow", "tensorpotential", "lammps"), run=run)
    run_in_process(program, tmp_path)


def test_what_reads_a_database_does_not_wait_for_atomate2(tmp_path):
    """Its documents of ASE calculations take two seconds to import."""
    run = "from mlip_autopipec.database.campaigns import Campaigns; import mlip_autopipec.database.validation"
    run_in_process(PROGRAM.format(heavy=("emmet", "sympy"), run=run), tmp_path)


def test_help_imports_next_to_nothing(tmp_path):
    heavy = ("pyace", "tensorflow", "lammps", "atomate2", "jobflow", "pymatgen", "ase", "numpy")
    program = PROGRAM.format(heavy=heavy, run=RUN.format(["--help"]) + OK)
    run_in_process(program, tmp_path)


def test_logging_of_a_script_stays_as_it_was(tmp_path):
    """pyace sets the root logger to INFO and gives it a handler; run_locally(log=False) would print all the same."""
    program = """
import logging
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.doctor.science import small_potential
import pyace

assert small_potential().elements == ["Cu"]
root = logging.getLogger()
assert (root.level, root.handlers) == (logging.WARNING, []), (root.level, root.handlers)
"""
    run_in_process(program, tmp_path)
