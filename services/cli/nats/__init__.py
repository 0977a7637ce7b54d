"""Setting up a NATS server that isolates services and tenants from each other."""
