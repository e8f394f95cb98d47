"""Bulk prediction: all images of Parquet files or of a folder, on Ray, without a server."""
