"""Evaluations: each takes an encoder, whichever method made it, and returns a tidy data frame."""
