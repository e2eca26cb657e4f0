"""NAME -> NETWORK: torch alone, no fastai."""
