"""The stand-in models: LLaVA in small, their training, and what is recorded of it."""
