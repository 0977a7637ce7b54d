"""Decisions of the notifier, without clock, network or bus."""
