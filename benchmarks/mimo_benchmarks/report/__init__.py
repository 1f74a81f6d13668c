"""Numbers for people and machines: the machine of a measurement, percentiles, tables, output files."""
