"""One file per change of the schema. A released one is never edited."""
