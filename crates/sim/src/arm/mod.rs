//! The ARM simulator: Azure Resource Manager on the wire, as the network and compute clients use it.
