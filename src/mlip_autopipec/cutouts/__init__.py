"""Periodic cells around atoms of structures that are too large to be labelled whole."""
