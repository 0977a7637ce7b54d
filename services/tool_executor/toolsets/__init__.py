"""Built-in tools: shell, http, files, and programs as tools. Nothing here is loaded before an agent uses it."""
