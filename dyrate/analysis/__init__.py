"""What a study's result files say: tables, paired comparisons and claims as data; nothing is drawn."""
