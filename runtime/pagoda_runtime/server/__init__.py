"""The OpenAI API in one process, the engine in another, a socket between them."""
