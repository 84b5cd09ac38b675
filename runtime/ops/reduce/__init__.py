"""Operators that fold a dimension: sums, extremes, their places, running sums."""
