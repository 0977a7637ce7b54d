"""Ways to tell somebody, one adapter each."""
