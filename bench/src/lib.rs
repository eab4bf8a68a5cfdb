//! Load tools and floors to measure Corewall against.
