"""
A stand-in for the VASP executable: real processes and files, an ASE calculator's numbers.

``python -m vasp_stand_in --calculator emt`` takes VASP's place in ``VASP_CMD``. It
reads POSCAR, INCAR, KPOINTS and POTCAR of the working directory and writes vasprun.xml, OUTCAR,
OSZICAR and CONTCAR. Every file says that it is no VASP result. See docs/vasp-stand-in.md.
"""

from vasp_stand_in.environment import vasp_stand_in_environment
from vasp_stand_in.potcars import write_potcars

__all__ = ["vasp_stand_in_environment", "write_potcars"]
