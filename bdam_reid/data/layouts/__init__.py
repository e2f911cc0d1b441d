"""Layouts of data sets, a file each: `is_here` knows it in a folder by SIGNS, `load` reads it."""
