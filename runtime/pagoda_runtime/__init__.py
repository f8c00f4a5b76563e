"""Pagoda's own engine: paged attention and continuous batching behind the OpenAI API."""
