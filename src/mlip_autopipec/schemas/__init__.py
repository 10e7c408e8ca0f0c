"""The stored documents: what can be queried, every field with unit and meaning."""
