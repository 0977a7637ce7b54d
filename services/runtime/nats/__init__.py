"""The ports on NATS JetStream. The only code that imports the client."""
