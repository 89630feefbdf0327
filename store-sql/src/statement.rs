//! A statement on its way to a database, and the rows that come back.

use crate::dialect::Dialect;

/// The text of a statement, with its arguments.
pub(crate) struct Statement<'a> {
    dialect: &'static dyn Dialect,
    pub(crate) text: String,
    pub(crate) arguments: Vec<Argument<'a>>,
}

/// A value that a statement is given.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    Text(&'a str),
    Bytes(Option<&'a [u8]>),
    Int(Option<i64>),
}

/// What every statement that gives rows gives: of what key, a number, and where there are more columns, how long ago and when it
/// was written, and a value.
pub(crate) struct Row {
    pub(crate) id: Vec<u8>,
    pub(crate) full_key: Option<Vec<u8>>,
    pub(crate) number: Option<i64>,
    pub(crate) elapsed: Option<i64>,
    pub(crate) written_at: Option<i64>,
    pub(crate) value: Option<Vec<u8>>,
}

impl<'a> Statement<'a> {
    pub(crate) fn new(dialect: &'static dyn Dialect) -> Self {
        Self { dialect, text: String::with_capacity(512), arguments: Vec::new() }
    }

    pub(crate) fn least(&self) -> &'static str {
        self.dialect.least()
    }

    /// Appends text. `{now}` in it becomes the time by the database's clock.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        let mut parts = text.split("{now}");
        self.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.text.push_str(self.dialect.now());
            self.text.push_str(part);
        }
        self
    }

    /// Appends an argument.
    pub(crate) fn bind(&mut self, argument: Argument<'a>) -> &mut Self {
        self.arguments.push(argument);
        self.dialect.placeholder(self.arguments.len(), &mut self.text);
        self
    }

    /// Appends `(namespace = … AND id IN (…))`.
    ///
    /// The list is filled up to a power of two by repeating the last id, so that few texts are prepared.
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
