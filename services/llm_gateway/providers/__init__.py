"""The providers, one module each. A module is imported when the first LLM of its family is used."""
