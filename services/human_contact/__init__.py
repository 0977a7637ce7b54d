"""human-contact: owns waiting for people."""
