"""L3: the roles of the mesh, one package each, and the runtime that starts and stops them."""
