"""FACTS -> PAGES."""
