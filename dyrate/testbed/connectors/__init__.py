"""Training connectors on a testbed model's tower, with LoRA on its language model: one recipe for all."""
