"""Looking into networks: explanations, best images, maps, comparisons of layers."""
