"""Small MCP servers that misbehave in the ways that matter, and a bench that runs tool calls against them."""
