//! The provider: the only room that speaks HTTP outward.
//!
//! [`Client`] asks and reads; what an answer means is decided in [`crate::core::outcome`] and
//! [`crate::core::ending`]. [`sandbox`] is a stand-in for the provider.

pub mod client;
mod gate;
pub mod records;
#[cfg(test)]
mod records_tests;
pub mod sandbox;
mod stages;
#[cfg(test)]
mod wire_tests;

pub use client::{Client, ClientConfig, ClientError, other_service};
