"""The OpenAI API in one process, the engine in another, ZMQ between them."""
