"""Molecular dynamics with LAMMPS that halts where the potential extrapolates. Knows no workflow."""
