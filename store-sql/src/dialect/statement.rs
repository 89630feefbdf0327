//! Statements for a database, and the rows that it returns.

use std::fmt::Write as _;

/// The differences between the databases in the text of every statement.
#[derive(Debug)]
pub(crate) struct Syntax {
    /// The time by the database's clock when the statement began, in whole Unix milliseconds.
    pub(crate) now: &'static str,
    /// The function that returns the smaller of two numbers.
    pub(crate) least: &'static str,
    /// The function that returns the larger of two numbers.
    pub(crate) greatest: &'static str,
    /// `true` if placeholders of arguments are numbered, as in `$1`. Otherwise each is a `?`.
    pub(crate) numbered: bool,
    /// `true` if `VALUES` is a table, whose columns are named `column1` and so on. Otherwise a
    /// column may be computed from those before it in a row of `INSERT … VALUES`.
    pub(crate) selects_values: bool,
}

/// The text of a statement, with its arguments.
pub(crate) struct Statement<'a> {
    syntax: &'static Syntax,
    pub(crate) text: String,
    pub(crate) arguments: Vec<Argument<'a>>,
}

/// An argument of a statement.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    Text(&'a str),
    Bytes(Option<&'a [u8]>),
    Int(Option<i64>),
}

/// A row that a statement returns. Every such statement returns the key and a number. Those with
/// more columns also return how long ago and when the row was written, and the value.
pub(crate) struct Row {
    pub(crate) id: Vec<u8>,
    pub(crate) full_key: Option<Vec<u8>>,
    pub(crate) number: Option<i64>,
    pub(crate) elapsed: Option<i64>,
    pub(crate) written_at: Option<i64>,
    pub(crate) value: Option<Vec<u8>>,
}

impl<'a> Statement<'a> {
    pub(crate) fn new(syntax: &'static Syntax) -> Self {
        Self { syntax, text: String::with_capacity(512), arguments: Vec::new() }
    }

    pub(crate) fn syntax(&self) -> &'static Syntax {
        self.syntax
    }

    /// Appends text. Replaces `{now}` in it by the time of the database's clock.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        let mut parts = text.split("{now}");
        self.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.text.push_str(self.syntax.now);
            self.text.push_str(part);
        }
        self
    }

    /// Appends an argument.
    pub(crate) fn bind(&mut self, argument: Argument<'a>) -> &mut Self {
        self.arguments.push(argument);
        if self.syntax.numbered {
            let _ = write!(self.text, "${}", self.arguments.len());
        } else {
            self.text.push('?');
        }
        self
    }

    /// Appends `(namespace = … AND id IN (…))`.
    ///
    /// The list is filled up to a power of two by repeating the last id, so that few different
    /// texts are prepared.
    pub(crate) fn push_ids(&mut self, namespace: &'a str, ids: &[&'a [u8]]) -> &mut Self {
        self.push("(namespace = ").bind(Argument::Text(namespace)).push(" AND id IN (");
        let last = ids.last().copied();
        for at in 0..ids.len().next_power_of_two() {
            if at > 0 {
                self.push(", ");
            }
            self.bind(Argument::Bytes(ids.get(at).copied().or(last)));
        }
        self.push("))")
    }
}
