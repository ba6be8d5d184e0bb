"""Where examples come from: folders, ImageNet, TensorFlow Datasets, digits."""
