"""Pure parts of the tool-executor."""
