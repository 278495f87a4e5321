"""One image, word by word: answers with and without a reduction, the visual tokens behind each word."""
