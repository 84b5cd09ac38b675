"""Detection, images and signals."""
