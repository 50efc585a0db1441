"""What runs say together: collecting, statistics, tables, figures and videos; reading needs no torch."""
