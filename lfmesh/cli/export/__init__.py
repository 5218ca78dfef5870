"""`lfmesh export`: the archive as tables, in files that analysts' tools read.

    OUT/trades/product=BTC-USD/date=2021-04-17/BTC-USD_trades_2021-04-17.parquet

A folder for each channel is a table: its files have the same columns of the same types, and DuckDB, Polars and pandas
read `name=value` folders as columns. `tables` says what the columns are, `rows` makes rows of archived messages,
`parquet_files` and `csv_files` write them, `run` goes through the archive.
"""
