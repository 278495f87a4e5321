"""The synthetic world: scenes, their pixels, and what is asked and told of them."""
