"""The task machine: owns every task's state."""
