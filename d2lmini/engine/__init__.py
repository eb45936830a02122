"""Everything that changes while a run goes on: devices, ranks, graphs, prefetching, state, validation."""
