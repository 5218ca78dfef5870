"""Drives up to thousands of clients against one gateway, cheaply enough to outrun it: `lfmesh load`."""
