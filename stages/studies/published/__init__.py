"""The protocol of the published experiment, repeated."""
