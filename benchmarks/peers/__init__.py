"""The servers that this project is compared with."""
