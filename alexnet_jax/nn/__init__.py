"""The network: AlexNet, its towers, its layers, its presets. JAX and Flax alone."""
