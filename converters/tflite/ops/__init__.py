"""How ATen operators become TFLite operators, by kind."""
