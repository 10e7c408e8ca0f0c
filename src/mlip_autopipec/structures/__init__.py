"""Structures: what comes in, distances, supercells, strains, dimers. Knows no potential."""
