"""A trained model elsewhere: int8, ONNX, and how far its answers agree with the model."""
