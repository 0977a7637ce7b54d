"""The commands: what they are called, what they take, and what they print. What they do is in the modules above."""
