//! Names of things, each a type of its own, so that one can't be passed for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("must not be empty")]
    Empty,
    #[error("is {0} characters long, at most {1} are allowed")]
    TooLong(usize, usize),
    #[error("has {0:?}; allowed are letters, digits and . _ : -")]
    BadCharacter(char),
}

/// The longest id, in characters.
pub const ID_CHARS_MAX: usize = 128;

fn check_key(text: &str) -> Result<(), IdError> {
    check_length(text)?;
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'))) {
        Some(c) => Err(IdError::BadCharacter(c)),
        None => Ok(()),
    }
}

fn check_length(text: &str) -> Result<(), IdError> {
    match text.chars().count() {
        0 => Err(IdError::Empty),
        n if n > ID_CHARS_MAX => Err(IdError::TooLong(n, ID_CHARS_MAX)),
        _ => Ok(()),
    }
}

/// Opaque to us, but never empty, over-long or with control characters.
fn check_opaque(text: &str) -> Result<(), IdError> {
    check_length(text)?;
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(IdError::BadCharacter(c)),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id!(
    /// The publisher's idempotency key.
    JobId, check_key
);
text_id!(CampaignId, check_key);
text_id!(
    /// The provider's agent id: opaque (a UUID today, older ones look like `1696…x1648…`).
    ModelId, check_opaque
);
text_id!(
    /// The provider's id of a call: opaque.
    CallId, check_opaque
);
text_id!(
    /// A provider account: the NAME of `[accounts.NAME]`.
    AccountName, check_key
);
text_id!(Brand, check_opaque);

impl AccountName {
    /// The account that agents without an entry belong to.
    pub fn default_account() -> Self {
        Self("default".into())
    }
}

/// One try at placing a call; travels to the provider as the custom variable `outdial_attempt_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(pub Uuid);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

/// The ledger's own number of a job; rises with receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobNo(pub i64);

/// The ledger's number of a class of jobs: those whose caller ID is decided alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClassNo(pub i32);

/// The version of the routing rules a decision was made under. 0: none applied yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RoutingVersion(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_keeps_to_its_alphabet_and_length() {
        assert!(JobId::parse("crm:2026-11.a_b-C9").is_ok());
        assert_eq!(JobId::parse(""), Err(IdError::Empty));
        assert_eq!(JobId::parse("a b"), Err(IdError::BadCharacter(' ')));
        assert_eq!(JobId::parse("é"), Err(IdError::BadCharacter('é')));
        assert!(JobId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(JobId::parse(&"x".repeat(129)), Err(IdError::TooLong(129, 128)));
    }

    #[test]
    fn an_opaque_id_refuses_control_characters() {
        assert!(ModelId::parse("1696372226173x164740052408336400").is_ok());
        assert_eq!(ModelId::parse("a\0b"), Err(IdError::BadCharacter('\0')));
    }
}
