"""Owns effects on the world: runs tools."""
