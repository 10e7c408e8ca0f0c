"""Queries of the database: campaigns, their progress, labels, potentials and provenance."""
