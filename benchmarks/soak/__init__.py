"""Soak and fault runs of a server, under open loops of load whose every answer is checked: `scripts/soak --help`."""
