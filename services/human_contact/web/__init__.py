"""What comes in by HTTP: people's answers, and nothing else."""
