def summary_line(e): return str(e)
