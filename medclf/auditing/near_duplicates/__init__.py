"""Near-duplicates: copies that were re-encoded, cropped, turned, mirrored, re-lit or drawn upon."""
