"""The monitors, one file each: a class that names and computes its signals. The registry finds it in this folder."""
