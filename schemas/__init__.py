"""The contract: every message, state, resource and name that crosses a boundary.

Read `catalog.py` first (who says what to whom), then `task.py` and `subjects.py`.
Nothing here does I/O; the package imports the standard library and msgspec only.
"""
