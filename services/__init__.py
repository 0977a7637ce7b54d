"""The services of Holdfast, and the runtime they share."""
