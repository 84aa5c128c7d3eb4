//! Reads a TOML document key by key and notes every fault with its line, so that all are told at once.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::core::states::words;
use crate::core::text::tidy;

words!(
    /// What kind of fault it is.
    FaultKind {
        Syntax = "syntax",
        UnknownKey = "unknown_key",
        MissingKey = "missing_key",
        Invalid = "invalid",
        Duplicate = "duplicate",
        /// A key or value of the contract that this version can't honour yet.
        NotSupported = "not_supported",
        /// None of its own: that there are more.
        More = "more",
    }
);

/// One thing wrong with a file: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// Such as `rule[2].match.region[0]`, counted from 0; empty for the document.
    pub key: String,
    pub kind: FaultKind,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        match self.kind {
            FaultKind::NotSupported => write!(f, "not_supported: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

/// So many faults are told. Of a file that is no routing file at all, every line may have one.
pub(super) const FAULTS_MAX: usize = 100;
/// Of a key that nobody knows, at most this much is told.
const KEY_BYTES_MAX: usize = 100;

/// The faults found so far, and where lines begin.
#[derive(Debug)]
pub(super) struct Faults {
    line_starts: Vec<usize>,
    found: RefCell<Vec<Fault>>,
    /// Found and not kept.
    more: Cell<usize>,
}

impl Faults {
    pub(super) fn new(source: &str) -> Self {
        let after_breaks = source.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self {
            line_starts: std::iter::once(0).chain(after_breaks).collect(),
            found: RefCell::default(),
            more: Cell::new(0),
        }
    }

    pub(super) fn note(&self, offset: usize, key: &str, kind: FaultKind, message: impl fmt::Display) {
        let mut found = self.found.borrow_mut();
        if found.len() == FAULTS_MAX {
            self.more.set(self.more.get() + 1);
            return;
        }
        let message = message.to_string();
        found.push(Fault { line: self.line(offset), key: key.to_owned(), kind, message });
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// In the order of the file. What a broken syntax may have swallowed is not called missing.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut faults = self.found.into_inner();
        if faults.iter().any(|f| f.kind == FaultKind::Syntax) {
            faults.retain(|f| f.kind != FaultKind::MissingKey);
        }
        faults.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        faults.dedup();
        if let (more @ 1.., Some(last)) = (self.more.get(), faults.last()) {
            let message = format!("and {more} more faults in this file; mend these first");
            faults.push(Fault { line: last.line, key: String::new(), kind: FaultKind::More, message });
        }
        faults
    }
}

/// A table of the document. Ask for each key it may have, then [`Section::finish`].
#[derive(Debug)]
pub(super) struct Section<'a> {
    faults: &'a Faults,
    path: String,
    offset: usize,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(faults: &'a Faults, table: &'a DeTable<'a>) -> Self {
        Self { faults, path: String::new(), offset: 0, table, known: Vec::new() }
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (name, value) = self.table.get_key_value(key)?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Field { faults: self.faults, path, offset: name.span().start, value })
    }

    pub(super) fn require(&mut self, key: &'static str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.faults.note(self.offset, &self.path, FaultKind::MissingKey, format_args!("needs {key:?}"));
        }
        field
    }

    /// Every key that nobody asked for is a fault.
    pub(super) fn finish(self) {
        for name in self.table.keys() {
            if !self.known.contains(&name.get_ref().as_ref()) {
                let shown = match tidy(name.get_ref(), KEY_BYTES_MAX) {
                    empty if empty.is_empty() => "\"\"".to_owned(),
                    key => key,
                };
                let path = match self.path.as_str() {
                    "" => shown,
                    path => format!("{path}.{shown}"),
                };
                let message = format_args!("unknown key; known here: {}", self.known.join(", "));
                self.faults.note(name.span().start, &path, FaultKind::UnknownKey, message);
            }
        }
    }
}

/// A key of the document with its value. Reading it as something it isn't notes a fault and gives none.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    faults: &'a Faults,
    pub(super) path: String,
    offset: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    pub(super) fn fault<T>(&self, kind: FaultKind, message: impl fmt::Display) -> Option<T> {
        self.faults.note(self.offset, &self.path, kind, message);
        None
    }

    pub(super) fn invalid<T>(&self, message: impl fmt::Display) -> Option<T> {
        self.fault(FaultKind::Invalid, message)
    }

    fn not_a<T>(&self, wanted: &str) -> Option<T> {
        self.invalid(format_args!("must be {wanted}, not {}", self.value.get_ref().type_str()))
    }

    pub(super) fn line(&self) -> usize {
        self.faults.line(self.offset)
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.not_a("a string"),
        }
    }

    /// A string that must mean something.
    pub(super) fn parsed<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        parse(self.text()?).map_or_else(|error| self.invalid(error), Some)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy + fmt::Display>(&self, words: &[T]) -> Option<T> {
        let text = self.text()?;
        words.iter().copied().find(|word| word.to_string() == text).or_else(|| {
            let known: Vec<_> = words.iter().map(T::to_string).collect();
            self.invalid(format_args!("must be one of {}", known.join(", ")))
        })
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.get_ref().as_bool().or_else(|| self.not_a("true or false"))
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count(&self, max: u32) -> Option<u32> {
        let DeValue::Integer(digits) = self.value.get_ref() else { return self.not_a("a whole number") };
        let plain = digits.as_str().replace('_', "");
        match i128::from_str_radix(&plain, digits.radix()) {
            Ok(number) if (1..=i128::from(max)).contains(&number) => u32::try_from(number).ok(),
            _ => self.invalid(format_args!("must be from 1 to {max}")),
        }
    }

    /// Each element; those with faults are left out, their faults noted.
    pub(super) fn list<T>(&self, each: impl Fn(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        let DeValue::Array(array) = self.value.get_ref() else { return self.not_a("a list") };
        let fields = array.iter().enumerate().map(|(at, value)| Field {
            faults: self.faults,
            path: format!("{}[{at}]", self.path),
            offset: value.span().start,
            value,
        });
        Some(fields.filter_map(|field| each(&field)).collect())
    }

    pub(super) fn table(&self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value.get_ref() else { return self.not_a("a table") };
        Some(Section {
            faults: self.faults,
            path: self.path.clone(),
            offset: self.offset,
            table,
            known: Vec::new(),
        })
    }
}
