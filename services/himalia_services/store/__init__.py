"""Rows and files: the only place that knows SQL, and the content-addressed files beside the database."""
