"""From a GGUF file to an ordinary base folder: read and refused, described, dequantised, and kept in the cache."""
