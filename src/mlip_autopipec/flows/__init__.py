"""Flows compose jobs; they hold no physics."""
