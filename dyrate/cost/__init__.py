"""What a generation costs: arithmetic and memory, counted from the shapes that it really had."""
