"""What the engine pods tell: which pods there are, their pages, and the values in them."""
