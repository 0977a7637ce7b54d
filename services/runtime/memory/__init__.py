"""The ports of the bus in memory: for tests (ours and our users') and for simulations.

The same promises as `nats/`, checked by the same suite; nothing outlives the process. Read `bus.py` first.
"""
