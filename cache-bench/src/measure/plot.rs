//! Draws a table: a bar per subject, and its spread.

use std::{fs, io, path::Path};

use plotters::prelude::*;

use super::Table;

const WIDTH: u32 = 900;
const HEIGHT_OF_ROW: u32 = 34;

/// Writes the table as SVG to `directory`, under the name of its title.
pub(super) fn write(table: &Table, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let name: String = table.title.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    draw(table, &directory.join(format!("{}.svg", name.to_lowercase()))).map_err(io::Error::other)
}

fn draw(table: &Table, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let rows = u32::try_from(table.rows.len())?;
    let area = SVGBackend::new(path, (WIDTH, 90 + HEIGHT_OF_ROW * rows)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let most = table.rows.iter().map(|row| row.value.most).fold(0.0, f64::max);
    let count = table.rows.len();
    let mut chart = ChartBuilder::on(&area)
        .caption(&table.title, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(300)
        .build_cartesian_2d(0.0..most * 1.05, (0..count).into_segmented())
        .map_err(text)?;
    let name = |at: &SegmentValue<usize>| match at {
        // The first subject is at the top.
        SegmentValue::CenterOf(at) => table.rows.get(count - 1 - at).map_or(String::new(), |row| row.name.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(count)
        .y_label_formatter(&name)
        .x_desc(table.unit)
        .label_style(("sans-serif", 14))
        .draw()
        .map_err(text)?;
    for (at, row) in table.rows.iter().rev().enumerate() {
        let color = if at + 1 == count { RGBColor(150, 150, 150) } else { RGBColor(70, 120, 180) };
        let corners = [(0.0, SegmentValue::Exact(at)), (row.value.median, SegmentValue::Exact(at + 1))];
        let mut bar = Rectangle::new(corners, color.filled());
        bar.set_margin(6, 6, 0, 0);
        let spread = [row.value.least, row.value.most].map(|x| (x, SegmentValue::CenterOf(at)));
        chart.draw_series([bar]).map_err(text)?;
        chart.draw_series([PathElement::new(spread.to_vec(), BLACK)]).map_err(text)?;
    }
    Ok(area.present().map_err(text)?)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
