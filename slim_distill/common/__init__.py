"""Errors, tables of names, plain records, files: what every other package may use. No Paddle here."""
