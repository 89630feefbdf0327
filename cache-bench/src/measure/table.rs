//! The figures of one contest.

use std::fmt;

use serde::Serialize;

use super::Sample;

/// A median, and the smallest and the largest sample.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        Self { median: f64::midpoint(at(low), at(high)), least: at(0), most: at(sorted.len().saturating_sub(1)) }
    }
}

/// The figures of one subject.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: Spread,
    /// In relation to the first subject, round by round: what disturbs a round strikes both.
    pub(crate) ratio: Spread,
    /// The medians of the further columns.
    pub(crate) more: Vec<(&'static str, f64)>,
}

impl Row {
    pub(super) fn new(name: &str, samples: &[Sample], first: &[Sample]) -> Self {
        let ratios = samples.iter().zip(first).map(|(sample, first)| sample.value / first.value);
        let columns = samples.first().into_iter().flat_map(|sample| &sample.more).enumerate();
        let more = columns.map(|(at, (column, _))| {
            let figures = samples.iter().filter_map(|sample| Some(sample.more.get(at)?.1));
            (*column, Spread::of(figures).median)
        });
        Self {
            name: name.to_owned(),
            value: Spread::of(samples.iter().map(|sample| sample.value)),
            ratio: Spread::of(ratios),
            more: more.collect(),
        }
    }
}

/// The rows of one contest. `Display` prints Markdown.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// The table of these subjects and their samples. The first one is what the others are compared
    /// with.
    pub(crate) fn of(title: impl Into<String>, unit: &'static str, subjects: &[(String, Vec<Sample>)]) -> Self {
        let first = subjects.first().map(|(_, samples)| samples.clone()).unwrap_or_default();
        let rows = subjects.iter().map(|(name, samples)| Row::new(name, samples, &first));
        Self { title: title.into(), unit, rows: rows.collect() }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers")
    }

    /// The names of the further columns, in the order of their first occurrence.
    fn columns(&self) -> Vec<&'static str> {
        let mut columns = Vec::new();
        for (column, _) in self.rows.iter().flat_map(|row| &row.more) {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        columns
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        // One sample has no spread.
        let spreads = self.rows.iter().any(|row| row.value.least < row.value.most);
        writeln!(f, "### {}\n", self.title)?;
        let head = if spreads { "spread | ratio | spread |" } else { "ratio |" };
        write!(f, "| | {} | {head}", self.unit)?;
        columns.iter().try_for_each(|column| write!(f, " {column} |"))?;
        write!(f, "\n|---|---|{}", if spreads { "---|---|---|" } else { "---|" })?;
        columns.iter().try_for_each(|_| write!(f, "---|"))?;
        writeln!(f)?;
        for Row { name, value, ratio, more } in &self.rows {
            write!(f, "| {name} | {} |", shown(value.median))?;
            if spreads {
                write!(f, " {} to {} | {:.2} |", shown(value.least), shown(value.most), ratio.median)?;
                write!(f, " {:.2} to {:.2} |", ratio.least, ratio.most)?;
            } else {
                write!(f, " {:.2} |", ratio.median)?;
            }
            for column in &columns {
                match more.iter().find(|(name, _)| name == column) {
                    Some((_, figure)) => write!(f, " {} |", shown(*figure))?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The number with three digits or more, and its thousands apart.
fn shown(number: f64) -> String {
    if number.abs() < 100.0 {
        return format!("{number:.2}");
    }
    if number.abs() < 1000.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().map(|&value| Sample::of(value).with("allocations", value + 1.0)).collect()
    }

    #[test]
    fn ratios_are_those_of_the_rounds() {
        let (first, other) = (samples(&[100.0, 200.0, 400.0]), samples(&[300.0, 400.0, 400.0]));
        let table = Table::of("Ratios", "ns", &[("first".to_owned(), first), ("other".to_owned(), other)]);
        let Row { value, ratio, more, .. } = &table.rows[1];
        assert_eq!([value.least, value.median, value.most].map(f64::to_bits), [300.0, 400.0, 400.0].map(f64::to_bits));
        assert_eq!([ratio.least, ratio.median, ratio.most].map(f64::to_bits), [1.0, 2.0, 3.0].map(f64::to_bits));
        assert_eq!(*more, [("allocations", 401.0)]);
        assert_eq!(Spread::of([1.0, 4.0]).median.to_bits(), 2.5_f64.to_bits());
    }

    #[test]
    fn a_table_is_markdown() {
        let table = |values: &[f64]| Table::of("A hit", "ns", &[("one".to_owned(), samples(values))]).to_string();
        let expected = "### A hit\n\n| | ns | spread | ratio | spread | allocations |\n|---|---|---|---|---|---|\n| one \
                        | 1,234 | 1,000 to 1,469 | 1.00 | 1.00 to 1.00 | 1,236 |\n";
        assert_eq!(table(&[1000.0, 1469.0]), expected);
        let expected =
            "### A hit\n\n| | ns | ratio | allocations |\n|---|---|---|---|\n| one | 12.30 | 1.00 | 13.30 |\n";
        assert_eq!(table(&[12.3]), expected, "one sample has no spread");
    }
}
