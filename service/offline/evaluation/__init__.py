"""Offline evaluation: runs specs over labelled data to find the best method and options for it."""
