"""Attention over the paged KV cache, one file per implementation."""
