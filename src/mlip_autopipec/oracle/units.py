"""Units that energies, forces and stresses of others come in: their sizes, and what makes eV and A of them."""

from __future__ import annotations

from ase import units

#: Sizes in eV.
ENERGIES = {
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "meV": 1e-3,
    "Hartree": units.Hartree,
    "Ry": units.Ry,
}
#: Sizes in eV/A.
FORCES = {
    "kcal/mol/A": units.kcal / units.mol,
    "kJ/mol/A": units.kJ / units.mol,
    "meV/A": 1e-3,
    "Hartree/bohr": units.Hartree / units.Bohr,
    "Ry/bohr": units.Ry / units.Bohr,
    "Hartree/A": units.Hartree,
    "eV/bohr": 1 / units.Bohr,
}
#: Sizes in eV/A^3; codes differ in the sign, too.
STRESSES = {
    "GPa": units.GPa,
    "kB": 0.1 * units.GPa,
    "Hartree/bohr^3": units.Hartree / units.Bohr**3,
    "Ry/bohr^3": units.Ry / units.Bohr**3,
    "kcal/mol/A^3": units.kcal / units.mol,
}


def remedy(size: float, what: str = "them") -> str:
    """
    Say what makes eV, eV/A or eV/A^3 of numbers.

    Parameters
    ----------
    size
        Of their unit, in eV, eV/A or eV/A^3.
    what
        How the sentence names the numbers.
    """
    return f"multiply {what} by {size:.5g}" if size > 1 else f"divide {what} by {1 / size:.5g}"
