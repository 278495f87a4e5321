"""`dyrate preflight`: what would fail in a study, and how long it takes, before a night is spent on it."""
