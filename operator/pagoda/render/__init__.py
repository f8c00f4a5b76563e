"""From an LLMDeployment to the objects it stands for. Pure: one builder per file, one plan."""
