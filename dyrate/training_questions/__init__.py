"""The training questions of DyRate's predictor in the paper's study, made of an open data set."""
