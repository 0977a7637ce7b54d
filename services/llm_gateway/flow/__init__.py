"""Flow control: the limits that all replicas share, over the bus."""
