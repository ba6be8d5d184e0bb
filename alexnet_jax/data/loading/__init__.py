"""Epochs, batches, augmentation and prefetch."""
