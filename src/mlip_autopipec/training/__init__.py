"""Trainers: from labels to a potential, with the proof that it learned."""
