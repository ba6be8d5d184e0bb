"""Weights of Caffe, PyTorch, ONNX and safetensors."""
