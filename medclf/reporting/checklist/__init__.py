"""The checklist that fills itself."""
