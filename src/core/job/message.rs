//! The message as publishers write it: one list of fields gives the reader, the names it knows and the JSON Schema.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::field::{Consent, Field, Metadata, Name, Priority, Variables, take};
use crate::core::call::ATTEMPT_VARIABLE;
use crate::core::ids::{Brand, CampaignId, JobId, ModelId};
use crate::core::phone::E164;
use crate::core::place::Region;

/// Our own keys.
const KEY: &str = r"^[A-Za-z0-9._:\-]{1,128}$";
/// Opaque ids: anything but control characters.
const OPAQUE: &str = r"^[^\u0000-\u001f\u007f-\u009f]{1,128}$";
/// No text may hold U+0000.
const TEXT: &str = r"^[^\u0000]*$";
const PHONE: &str = r"^\s*\+[^\u0000]*$";
const E164_ONLY: &str = r"^\+[1-9][0-9]{2,14}$";
const REGION: &str = r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$";
/// RFC 3339 with an offset.
const DATE: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+\-][0-9]{2}:[0-9]{2})$";

macro_rules! message {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty),+ $(,)? }) => {
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $kind),+ }

        impl $name {
            /// Every field's name, and whether it is required.
            pub const FIELDS: &[(&str, bool)] =
                &[$((stringify!($field), <$kind as Field>::REQUIRED)),+];

            /// Reads every field; of several faults the first, in the order of the list, is told.
            pub fn read(message: &mut Map<String, Value>) -> Result<Self, String> {
                Ok(Self { $($field: take(message, stringify!($field))?),+ })
            }
        }
    };
}

message!(
    /// A call job: JSON in UTF-8, at most 64 KiB, sent to the exchange `outdial.jobs`. `null` is the same as absent.
    /// Beyond what a schema can say: `phone` must be a number that its country has in use, `expires_at` must be later
    /// than `not_before`, `lead_timezone` must be a zone of the IANA database, and no key may be given twice.
    #[schemars(title = "outdial call job")]
    JobMessage {
        /// Idempotency key; without it the AMQP property `message_id` is. The same id with the same content is one job.
        #[schemars(with = "Option<String>", regex(pattern = KEY))]
        job_id: Option<JobId>,
        /// An unknown campaign is made on first sight, with the defaults.
        #[schemars(with = "String", regex(pattern = KEY))]
        campaign_id: CampaignId,
        /// Whom to call: international with `+`, punctuation allowed.
        #[schemars(regex(pattern = PHONE))]
        #[expect(dead_code, reason = "judged before the others are read")]
        phone: String,
        /// The callee's name.
        #[schemars(with = "String", length(min = 1, max = 200), regex(pattern = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"))]
        name: Name,
        /// The Synthflow agent; else the campaign's.
        #[schemars(with = "Option<String>", regex(pattern = OPAQUE))]
        model_id: Option<ModelId>,
        /// Else the campaign's.
        #[schemars(with = "Option<String>", regex(pattern = OPAQUE))]
        brand: Option<Brand>,
        /// The callee's, ISO 3166-2 (`US-CA`) or 3166-1 (`GB`); else derived from `phone`.
        #[schemars(with = "Option<String>", regex(pattern = REGION))]
        region: Option<Region>,
        /// The publisher's own choice of caller ID, in place of the rules: E.164.
        #[schemars(with = "Option<String>", regex(pattern = E164_ONLY))]
        from_phone_number: Option<E164>,
        /// Passed on to the agent.
        #[schemars(with = "Option<VariablesForm>")]
        custom_variables: Option<Variables>,
        /// Passed on to the agent.
        #[schemars(regex(pattern = TEXT))]
        prompt: Option<String>,
        /// Passed on to the agent.
        #[schemars(regex(pattern = TEXT))]
        greeting: Option<String>,
        /// Passed on to the agent.
        #[schemars(regex(pattern = TEXT))]
        lead_email: Option<String>,
        /// IANA; also rules the calling window.
        #[schemars(with = "Option<String>", regex(pattern = r"^[A-Za-z0-9_+/\-]+$"))]
        lead_timezone: Option<chrono_tz::Tz>,
        /// The call isn't placed before.
        #[schemars(with = "Option<String>", regex(pattern = DATE))]
        not_before: Option<DateTime<Utc>>,
        /// No attempt starts after; else the campaign's `expires_after` from receipt, 7 days by default.
        #[schemars(with = "Option<String>", regex(pattern = DATE))]
        expires_at: Option<DateTime<Utc>>,
        /// Higher first, within the campaign; 4 by default.
        #[schemars(with = "Option<u8>", range(min = 0, max = 9))]
        priority: Option<Priority>,
        /// That the callee agreed.
        #[schemars(with = "Option<ConsentForm>")]
        consent: Option<Consent>,
        /// Opaque; echoed in events and records. At most 8 KiB as compact JSON.
        #[schemars(with = "Option<Map<String, Value>>")]
        metadata: Option<Metadata>,
    }
);

message!(
    /// A control message, of AMQP type `cancel`: cancels a job that has no attempt in flight.
    #[schemars(title = "outdial cancel message")]
    CancelMessage {
        #[schemars(with = "String", regex(pattern = KEY))]
        job_id: JobId,
    }
);

/// That the callee agreed: where and when.
#[derive(JsonSchema)]
#[schemars(inline, deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct ConsentForm {
    #[schemars(regex(pattern = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"))]
    source: String,
    #[schemars(regex(pattern = DATE))]
    obtained_at: String,
}

/// Both forms of `custom_variables`.
struct VariablesForm;

impl JsonSchema for VariablesForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CustomVariables".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let key = json_schema!({
            "type": "string", "minLength": 1, "pattern": TEXT, "not": { "const": ATTEMPT_VARIABLE }
        });
        let text = json_schema!({ "type": "string", "pattern": TEXT });
        json_schema!({ "anyOf": [
            { "type": "object", "propertyNames": key, "additionalProperties": text },
            { "type": "array", "items": {
                "type": "object", "properties": { "key": key, "value": text },
                "required": ["key", "value"], "additionalProperties": false
            } },
        ] })
    }
}

/// The JSON Schema (2020-12) of a job, as `outdial schema job` prints it.
pub fn job_schema() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<JobMessage>()
}

/// Paths of fields that the message has and we don't know, nested ones too.
pub fn unknown_fields(message: &Map<String, Value>, known: &[(&str, bool)]) -> Vec<String> {
    let stray = |map: &Map<String, Value>, known: &[&str], at: &str| -> Vec<String> {
        map.keys().filter(|k| !known.contains(&k.as_str())).map(|k| format!("{at}{k}")).collect()
    };
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let mut unknown = stray(message, &names, "");
    if let Some(Value::Object(consent)) = message.get("consent") {
        unknown.extend(stray(consent, &["source", "obtained_at"], "consent."));
    }
    if let Some(Value::Array(items)) = message.get("custom_variables") {
        for (i, item) in items.iter().enumerate() {
            if let Value::Object(pair) = item {
                unknown.extend(stray(pair, &["key", "value"], &format!("custom_variables[{i}].")));
            }
        }
    }
    unknown
}

/// The known name that was probably meant: the nearest by edits, if near enough.
pub fn meant(unknown: &str, known: &[(&'static str, bool)]) -> Option<&'static str> {
    known
        .iter()
        .map(|(name, _)| (edits(unknown, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 5)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
