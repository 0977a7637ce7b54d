"""Pure: states in, states out. No clock, no ids, no I/O."""
