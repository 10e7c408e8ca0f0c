"""Oracles: from the documents of electronic-structure codes to labels. Knows no workflow."""
