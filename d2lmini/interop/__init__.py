"""Other libraries and formats: D2L's names (`d2l`), ONNX and web pages (`export`), backbones (`timm`)."""
