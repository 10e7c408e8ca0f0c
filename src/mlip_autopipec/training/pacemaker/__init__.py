"""Pacemaker's gradient fit: its input, its process, its log, its trainer."""
