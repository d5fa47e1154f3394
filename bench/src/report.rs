//! The matrix for people and for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::calibration::Row;
use crate::machine::Machine;
use crate::matrix::{Cell, Times};

const COLUMNS: [(&str, usize); 13] = [
    ("transport", 14),
    ("mode", 12),
    ("order", 5),
    ("size", 7),
    ("MB/s", 8),
    ("msg/s", 10),
    ("p50", 8),
    ("p99", 8),
    ("p99.9", 8),
    ("max", 9),
    ("open p99.9", 10),
    ("notif/MiB", 9),
    ("calls/MiB", 9),
];

/// The heading of the table, two lines.
#[must_use]
pub fn heading() -> String {
    let mut text = String::new();
    for (nth, (name, width)) in COLUMNS.iter().enumerate() {
        let _ = match nth {
            0 | 1 => write!(text, "{name:<width$} "),
            _ => write!(text, "{name:>width$} "),
        };
    }
    let rule = "-".repeat(text.trim_end().len());
    format!("{}\n{rule}\n", text.trim_end())
}

/// One line of the table. Times are round trips in microseconds.
#[must_use]
pub fn line(cell: &Cell) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let time = |time: fn(&Times) -> u64, times: Option<&Times>| {
        number(times.map(|times| time(times) as f64 / 1e3), 1)
    };
    let closed = cell.closed.as_ref();
    let values = [
        cell.transport.to_owned(),
        cell.mode.to_owned(),
        cell.order
            .map_or_else(|| "-".to_owned(), |order| order.to_string()),
        cell.size.to_string(),
        number(cell.throughput.map(|bytes| bytes / 1e6), 1),
        number(cell.rate, 0),
        time(|times| times.p50, closed),
        time(|times| times.p99, closed),
        time(|times| times.p999, closed),
        time(|times| times.max, closed),
        time(
            |times| times.p999,
            cell.open.as_ref().map(|(_, times)| times),
        ),
        number(cell.notifications, 2),
        number(cell.system_calls, 2),
    ];
    let mut text = String::new();
    for (nth, (value, (_, width))) in values.iter().zip(COLUMNS).enumerate() {
        let _ = match nth {
            0 | 1 => write!(text, "{value:<width$} "),
            _ => write!(text, "{value:>width$} "),
        };
    }
    format!("{}\n", text.trim_end())
}

/// What it took to connect, a line for each ring order.
#[must_use]
pub fn connecting(cells: &[Cell]) -> String {
    let mut seen = Vec::new();
    let mut text = String::new();
    for cell in cells {
        if let (Some(order), Some(setup)) = (cell.order, cell.setup)
            && !seen.contains(&order)
        {
            seen.push(order);
            let microseconds = setup.as_secs_f64() * 1e6;
            let _ = writeln!(text, "connecting, ring order {order}: {microseconds:.0} µs");
        }
    }
    text
}

/// The machine and its calibration.
#[must_use]
pub fn circumstances(machine: &Machine, calibration: &[Row]) -> String {
    let mut text = format!("{machine}\n");
    for Row { name, value, unit } in calibration {
        let _ = writeln!(text, "{name}: {value} {unit}");
    }
    text
}

/// All of it as JSON. Times are in nanoseconds, rates in bytes or messages a second.
#[must_use]
pub fn json(machine: &Machine, calibration: &[Row], cells: &[Cell]) -> Value {
    json!({
        "machine": machine.to_string(),
        "calibration": calibration.iter().map(row).collect::<Vec<_>>(),
        "cells": cells.iter().map(object).collect::<Vec<_>>(),
    })
}

/// A calibration row as JSON.
#[must_use]
pub fn row(row: &Row) -> Value {
    json!({
        "name": row.name,
        "median": row.value.median,
        "low": row.value.low,
        "high": row.value.high,
        "unit": row.unit,
    })
}

fn object(cell: &Cell) -> Value {
    let times = |times: &Times| {
        json!({
            "p50": times.p50,
            "p99": times.p99,
            "p99.9": times.p999,
            "max": times.max,
        })
    };
    json!({
        "transport": cell.transport,
        "mode": cell.mode,
        "order": cell.order,
        "size": cell.size,
        "bytes_per_second": cell.throughput,
        "messages_per_second": cell.rate,
        "round_trip": cell.closed.as_ref().map(times),
        "round_trip_at_rate": cell.open.as_ref().map(|(rate, found)| {
            json!({ "rate": rate, "times": times(found) })
        }),
        "notifications_per_mib": cell.notifications,
        "system_calls_per_mib": cell.system_calls,
        "connecting": cell.setup.map(|time| time.as_secs_f64() * 1e9),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cell() -> Cell {
        let mut cell = Cell::new("vchan", "blocking", 65536);
        cell.order = Some(20);
        cell.throughput = Some(1.5e10);
        cell.notifications = Some(0.07);
        cell.setup = Some(Duration::from_micros(250));
        cell.closed = Some(Times {
            p50: 12_345,
            p99: 20_000,
            p999: 1_000_000,
            max: 123_456_789,
        });
        cell
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let heading = heading();
        let first = heading.lines().next().unwrap();
        let line = line(&cell());
        for (name, value) in [("MB/s", "15000.0"), ("max", "123456.8"), ("size", "65536")] {
            let end = |text: &str, part: &str| text.find(part).unwrap() + part.len();
            assert_eq!(end(first, name), end(&line, value), "{name}");
        }
    }

    #[test]
    fn machines_get_numbers_and_null() {
        let object = object(&cell());
        assert_eq!(object["round_trip"]["p99.9"], 1_000_000);
        assert_eq!(object["round_trip_at_rate"], Value::Null);
        assert_eq!(object["connecting"], 250_000.0);
        assert_eq!(
            connecting(&[cell(), cell()]),
            "connecting, ring order 20: 250 µs\n"
        );
    }
}
