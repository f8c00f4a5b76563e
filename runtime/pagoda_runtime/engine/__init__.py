"""Continuous batching over a paged KV cache. Imports no server code: it runs on a bare GPU box."""
