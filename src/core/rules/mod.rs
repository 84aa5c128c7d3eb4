//! The routing rules: read from TOML ([`document`]), kept as values ([`settings`]), compiled to look-ups ([`compile`]).

pub mod compile;
mod diff;
pub mod document;
mod reader;
pub mod settings;

pub use compile::Compiled;
pub use diff::{Change, diff};
pub use document::parse;
pub use reader::{Fault, FaultKind};
pub use settings::*;
