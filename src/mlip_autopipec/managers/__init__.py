"""Workflow managers."""
