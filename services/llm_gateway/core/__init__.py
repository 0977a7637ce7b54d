"""Pure parts of the llm-gateway."""
