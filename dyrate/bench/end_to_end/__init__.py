"""The whole evaluation, measured from images to answers."""
