"""Losses of the domain "headrace": what a training step computes last, as one operator each."""
