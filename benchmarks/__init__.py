"""Measurements that the docs quote; they start servers as a user does, on free ports."""
