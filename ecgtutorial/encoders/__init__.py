"""Encoders, one architecture a file: signals (batch, lead, time) to tokens and one vector."""
