"""The whole loop on one machine: build, train, register, mix, dispatch, serve, report."""
