//! What the partition finds around its CPU: hypercalls, RTAS, terminal, XICS, TCE tables, PCI host bridge.
