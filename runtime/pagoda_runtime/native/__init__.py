"""The fused CPU execution: one C++ call per step (runtime/csrc). Neither torch nor transformers."""
