"""The servers that this project is compared with, and what they share."""
