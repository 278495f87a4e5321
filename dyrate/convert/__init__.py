"""`dyrate convert`: checkpoints in their own repositories' layouts become what transformers loads."""
