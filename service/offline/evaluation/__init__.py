"""Offline runs of specs over labelled data: which method helps on data like yours, and with which options."""
