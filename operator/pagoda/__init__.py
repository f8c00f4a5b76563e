"""Pagoda: an operator that reconciles an LLMDeployment into a served large language model."""
