//! The routing rules: read from TOML ([`document`]), kept as values ([`settings`]), compiled to look-ups ([`compile`]).

pub mod compile;
pub mod document;
mod reader;
pub mod settings;

pub use compile::Compiled;
pub use document::parse;
pub use reader::{Fault, FaultKind};
pub use settings::*;
