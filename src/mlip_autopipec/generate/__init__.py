"""Structures: the first dataset and the candidates around a halt. Knows no workflow."""
