"""Owns model calls."""
