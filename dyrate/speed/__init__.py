"""Times and memory that `dyrate bench` measured at the paper's model shapes: read, and worked out."""
