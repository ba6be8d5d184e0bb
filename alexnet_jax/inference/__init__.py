"""Using a trained network: load, fine-tune, ensemble, inspect, store features."""
