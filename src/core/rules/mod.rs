//! The routing rules: read from TOML ([`document`]), kept as values ([`settings`]), compiled to look-ups ([`compile`]).

pub mod compile;
pub mod settings;

pub use compile::Compiled;
pub use settings::*;
