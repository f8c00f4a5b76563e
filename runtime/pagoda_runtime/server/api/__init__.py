"""OpenAI's endpoints: what each reads, refuses and answers."""
