"""MCP servers: their processes and connections. The only place that knows the SDK.

`session.py`, `stdio.py`, `http.py` and `convert.py` import it (37 MB); `pool.py` and `connection.py` bring them in when
the first server is declared.
"""
