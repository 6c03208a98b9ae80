"""Encoders: models that turn a text into numbers in one pass, without generating anything."""
