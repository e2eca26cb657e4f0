"""WHAT IS WRONG WITH IT: data sets, labels, predictions."""
