"""How the tflite converter writes a model: layouts, op by op lowering, and the flatbuffer itself."""
