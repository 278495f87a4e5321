"""Where the unpruned model looks: class mass at every layer and step of its answers, and what it tells."""
