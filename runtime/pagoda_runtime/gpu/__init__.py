"""The execution on GPUs: torch and Triton."""
