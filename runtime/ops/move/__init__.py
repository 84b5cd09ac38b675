"""Operators that move, pick, pad and resample elements."""
