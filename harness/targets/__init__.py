"""Servers under test that ship with the harness. Nothing in the harness imports them: it starts them as commands."""
