"""Shapes as data, and views under another shape."""
