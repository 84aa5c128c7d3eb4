//! The publisher's trace, continued: what is handed on by [W3C Trace Context](https://www.w3.org/TR/trace-context/), and the
//! spans that a worker adds to it. A worker begins no trace: whether a job has one, and whether it is recorded, is its
//! publisher's choice.

use std::fmt;

use chrono::{DateTime, Utc};

/// A place in a trace, as a `traceparent` of version 00 says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace: u128,
    pub span: u64,
    flags: u8,
}

impl Context {
    /// `None`: not well-formed, or all zeros where the standard forbids it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |length: usize| {
            parts.next().filter(|part| {
                part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let context = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (version == "00" && parts.next().is_none() && context.trace != 0 && context.span != 0)
            .then_some(context)
    }

    /// A span below this one. `draw`: at random; zero is no span's id.
    pub fn child(self, draw: u64) -> Self {
        Self { span: draw.max(1), ..self }
    }

    /// Whether its publisher records this trace.
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }

    pub fn flags(self) -> u8 {
        self.flags
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// From and to, by this machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    pub began: DateTime<Utc>,
    pub ended: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Consumer,
    Internal,
    Client,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

/// One thing that was done for a job. Phone numbers stand masked in it, names not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub name: &'static str,
    pub kind: Kind,
    pub context: Context,
    /// The span's id that it is part of.
    pub parent: u64,
    pub took: Took,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What went wrong, in a word.
    pub failed: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_alike() {
        let context = Context::parse(GOOD).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.sampled());
        let unsampled = Context::parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!unsampled.sampled());
    }

    #[test]
    fn a_child_is_of_the_same_trace_and_never_without_an_id() {
        let context = Context::parse(GOOD).unwrap();
        assert_eq!(context.child(10).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-000000000000000a-01");
        assert_eq!(context.child(0).span, 1);
    }

    #[test]
    fn what_is_not_well_formed_is_no_trace() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }
}
