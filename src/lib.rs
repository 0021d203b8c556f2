//! The Phalanx node as a library.

pub mod domain;
