//! The EC2 and STS simulator: the Query protocol on the wire, one server for many accounts and regions.
