"""SOURCES -> ONE TABLE: a row an image."""
