//! virtio 1.2 over PCI: the transport, then one file per device.
