"""`holdfast demo`: a task survives SIGKILL, shown and checked."""
