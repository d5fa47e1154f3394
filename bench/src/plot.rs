//! The matrix as a picture.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::matrix::Cell;

const CELL: (u32, u32) = (84, 34);
const MARGIN: (u32, u32) = (70, 56);

/// Draws the throughput of each mode of a vchan, message size by ring order, to an SVG file.
///
/// # Errors
/// When the file cannot be written, or there is nothing to draw.
pub fn throughput(cells: &[Cell], title: &str, file: &Path) -> Result<(), Failure> {
    let figure = |cell: &Cell| cell.throughput.map(|bytes| bytes / 1e6);
    heat(cells, title, "MB/s", figure, file)
}

/// Draws a figure of each mode of a vchan, message size by ring order, to an SVG file.
///
/// # Errors
/// As [`throughput`].
pub fn heat(
    cells: &[Cell],
    title: &str,
    unit: &str,
    figure: impl Fn(&Cell) -> Option<f64>,
    file: &Path,
) -> Result<(), Failure> {
    let drawn: Vec<(&Cell, u8, f64)> = cells
        .iter()
        .filter_map(|cell| Some((cell, cell.order?, figure(cell)?)))
        .collect();
    let nothing = || Failure::Missing("nothing was measured that could be drawn".to_owned());
    let least = drawn.iter().map(|it| it.2).fold(f64::INFINITY, f64::min);
    let most = drawn.iter().map(|it| it.2).fold(0.0, f64::max);
    let mut modes = Vec::new();
    for (cell, ..) in &drawn {
        if !modes.contains(&cell.mode) {
            modes.push(cell.mode);
        }
    }
    let sizes: Vec<usize> = in_order(drawn.iter().map(|(cell, ..)| cell.size));
    let orders: Vec<u8> = in_order(drawn.iter().map(|(_, order, _)| *order));
    if modes.is_empty() {
        return Err(nothing());
    }
    let panel = (
        MARGIN.0 + CELL.0 * count(orders.len()) + 20,
        MARGIN.1 + CELL.1 * count(sizes.len()) + 40,
    );
    let columns = modes.len().min(2);
    let rows = modes.len().div_ceil(columns);
    let size = (panel.0 * count(columns), panel.1 * count(rows) + 40);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE).map_err(broken)?;
    let root = root
        .titled(title, ("sans-serif", 20).into_font().color(&BLACK))
        .map_err(broken)?;
    for (area, mode) in root.split_evenly((rows, columns)).into_iter().zip(modes) {
        let text = |text: &str, size: u32, color: &RGBColor, anchor: (HPos, VPos), at| {
            let style = ("sans-serif", size).into_font().color(color);
            let style = style.pos(Pos::new(anchor.0, anchor.1));
            area.draw_text(text, &style, at).map_err(broken)
        };
        let middle = (HPos::Center, VPos::Center);
        let heading = format!("{mode}, {unit}");
        text(
            &heading,
            16,
            &BLACK,
            (HPos::Left, VPos::Top),
            (px(MARGIN.0), 8),
        )?;
        text(
            "order",
            12,
            &BLACK,
            (HPos::Right, VPos::Center),
            (px(MARGIN.0) - 8, 44),
        )?;
        for (nth, order) in orders.iter().enumerate() {
            let at = px(MARGIN.0 + CELL.0 * count(nth) + CELL.0 / 2);
            text(&order.to_string(), 12, &BLACK, middle, (at, 44))?;
        }
        for (nth, size) in sizes.iter().enumerate() {
            let at = px(MARGIN.1 + CELL.1 * count(nth) + CELL.1 / 2);
            let right = (HPos::Right, VPos::Center);
            text(
                &format!("{size} B"),
                12,
                &BLACK,
                right,
                (px(MARGIN.0) - 8, at),
            )?;
        }
        for (cell, order, value) in drawn.iter().filter(|(cell, ..)| cell.mode == mode) {
            let column = orders.iter().position(|it| it == order).unwrap_or(0);
            let row = sizes.iter().position(|&it| it == cell.size).unwrap_or(0);
            let left = px(MARGIN.0 + CELL.0 * count(column));
            let top = px(MARGIN.1 + CELL.1 * count(row));
            let corner = (left + px(CELL.0) - 2, top + px(CELL.1) - 2);
            // By the logarithm: each shade is as many times more than the one before.
            let range = (most / least).ln();
            let shade = if range > 0.0 {
                (value / least).ln() / range
            } else {
                1.0
            };
            let rectangle = Rectangle::new([(left, top), corner], blue(shade).filled());
            area.draw(&rectangle).map_err(broken)?;
            let ink = if shade > 0.55 { WHITE } else { BLACK };
            let center = (left + px(CELL.0) / 2, top + px(CELL.1) / 2);
            text(&short(*value), 13, &ink, middle, center)?;
        }
    }
    root.present().map_err(broken)
}

/// From nearly white to dark blue.
fn blue(shade: f64) -> RGBColor {
    let mix = |light: f64, dark: f64| {
        let value = light + (dark - light) * shade.clamp(0.0, 1.0);
        // 0 to 255 by the above.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range"
        )]
        let byte = value as u8;
        byte
    };
    RGBColor(mix(239.0, 8.0), mix(243.0, 48.0), mix(255.0, 107.0))
}

/// Three digits are enough.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn in_order<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let values: BTreeSet<T> = values.collect();
    values.into_iter().collect()
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn px(pixels: u32) -> i32 {
    i32::try_from(pixels).unwrap_or(i32::MAX)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Io(io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_in_the_picture() {
        let cells: Vec<Cell> = [("spin", 10, 1e6), ("spin", 20, 1.25e9), ("tokio", 10, 4e6)]
            .into_iter()
            .map(|(mode, order, throughput)| {
                let mut cell = Cell::new("vchan", mode, 64);
                cell.order = Some(order);
                cell.throughput = Some(throughput);
                cell
            })
            .collect();
        let file = std::env::temp_dir().join(format!("plot-{}.svg", std::process::id()));
        throughput(&cells, "a title", &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        for text in [
            "a title",
            "spin, MB/s",
            "tokio, MB/s",
            "1.00",
            "1250",
            "4.00",
            "64 B",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(throughput(&[], "nothing", &file).is_err());
    }
}
