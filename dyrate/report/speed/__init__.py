"""What `dyrate bench` and `dyrate bench-harness` measured at the paper's model shapes, as a section."""
