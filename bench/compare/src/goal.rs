//! What is to be reached, and whether it is.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};
use vchan_bench::stats::Spread;

/// A row of the table of goals: one or several figures.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What is measured.
    pub name: &'static str,
    /// Each with its bounds.
    pub parts: Vec<Part>,
    /// How it was measured, or why it was not.
    pub note: String,
}

/// One figure with its bounds.
#[derive(Clone, Debug)]
pub struct Part {
    /// Against what, or of what.
    pub what: &'static str,
    /// What was measured.
    pub value: Option<Spread>,
    /// Which figures are good.
    pub bound: Bound,
}

/// Which figures are good.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// At least the first number, better the second.
    AtLeast(f64, f64),
    /// At most the first number, better the second.
    AtMost(f64, f64),
    /// It holds: the figure is 1, not 0.
    Yes,
}

/// How good a figure is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Met {
    /// Not good enough, or not measured.
    No,
    /// Good enough.
    Must,
    /// As good as was hoped for.
    Aim,
}

impl Part {
    /// A figure, if it could be measured.
    pub fn new(what: &'static str, bound: Bound, value: impl Into<Option<Spread>>) -> Part {
        Part {
            what,
            value: value.into(),
            bound,
        }
    }

    /// A count.
    pub fn count(what: &'static str, bound: Bound, value: f64) -> Part {
        Part::new(what, bound, Spread::of(vec![value]))
    }

    /// Whether something holds.
    pub fn holds(what: &'static str, value: bool) -> Part {
        Part::count(what, Bound::Yes, f64::from(u8::from(value)))
    }

    fn met(&self) -> Met {
        let Some(Spread { median: value, .. }) = self.value else {
            return Met::No;
        };
        let (must, aim) = match self.bound {
            Bound::AtLeast(must, aim) => (value >= must, value >= aim),
            Bound::AtMost(must, aim) => (value <= must, value <= aim),
            Bound::Yes => (value == 1.0, value == 1.0),
        };
        match (must, aim) {
            (true, true) => Met::Aim,
            (true, false) => Met::Must,
            _ => Met::No,
        }
    }

    /// The figure as JSON: a number, a truth, or null.
    fn value(&self) -> Value {
        match (self.value, self.bound) {
            (None, _) => Value::Null,
            (Some(value), Bound::Yes) => json!(value.median == 1.0),
            (Some(value), _) => json!((value.median * 1e4).round() / 1e4),
        }
    }
}

impl Bound {
    /// The two bounds as JSON.
    fn values(self) -> (Value, Value) {
        match self {
            Bound::AtLeast(must, aim) | Bound::AtMost(must, aim) => (json!(must), json!(aim)),
            Bound::Yes => (json!(true), json!(true)),
        }
    }

    /// The two bounds in words.
    fn words(self) -> (String, String) {
        match self {
            Bound::AtMost(must, aim) if must.is_infinite() => ("–".to_owned(), format!("≤ {aim}")),
            Bound::AtLeast(must, aim) => (format!("≥ {must}"), format!("≥ {aim}")),
            Bound::AtMost(must, aim) => (format!("≤ {must}"), format!("≤ {aim}")),
            Bound::Yes => ("yes".to_owned(), "yes".to_owned()),
        }
    }
}

impl Goal {
    /// A row that this run does not measure.
    pub fn missing(name: &'static str, why: &str, parts: Vec<(&'static str, Bound)>) -> Goal {
        let parts = parts.into_iter();
        Goal {
            name,
            parts: parts
                .map(|(what, bound)| Part::new(what, bound, None))
                .collect(),
            note: format!("not measured: {why}"),
        }
    }

    /// As good as its worst figure.
    pub fn met(&self) -> Met {
        self.parts.iter().map(Part::met).min().unwrap_or(Met::No)
    }

    /// An object with `name`, `value`, `must`, `aim` and `met`. Where a row has several figures,
    /// `value`, `must` and `aim` are lists, in the order of `parts`.
    pub fn json(&self) -> Value {
        let one_or_all = |values: Vec<Value>| match values.as_slice() {
            [one] => one.clone(),
            _ => Value::Array(values),
        };
        let bounds = self.parts.iter().map(|part| part.bound.values());
        let (must, aim): (Vec<_>, Vec<_>) = bounds.unzip();
        json!({
            "name": self.name,
            "value": one_or_all(self.parts.iter().map(Part::value).collect()),
            "must": one_or_all(must),
            "aim": one_or_all(aim),
            "met": self.met().to_string(),
            "parts": self.parts.iter().map(|part| part.what).collect::<Vec<_>>(),
            "note": self.note,
        })
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Met::No => "no",
            Met::Must => "must",
            Met::Aim => "aim",
        })
    }
}

/// As a table of Markdown, which is also good to read as it is.
pub fn table(goals: &[Goal]) -> String {
    let mut rows = vec![["what", "figure", "must", "aim", "met"].map(str::to_owned)];
    for goal in goals {
        for (nth, part) in goal.parts.iter().enumerate() {
            let (must, aim) = part.bound.words();
            let figure = match (part.value, part.bound) {
                (None, _) => "–".to_owned(),
                (Some(value), Bound::Yes) => {
                    (if value.median == 1.0 { "yes" } else { "no" }).to_owned()
                }
                (Some(value), _) if value.rounds == 1 => {
                    format!("{:.2}", value.median)
                }
                (Some(value), _) => value.to_string(),
            };
            let name = match (nth, part.what) {
                (0, "") => goal.name.to_owned(),
                (0, what) => format!("{}: {what}", goal.name),
                (_, what) => format!("… {what}"),
            };
            let met = match part.value {
                Some(_) => part.met().to_string(),
                None => "not measured".to_owned(),
            };
            rows.push([name, figure, must, aim, met]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).filter_map(width).collect();
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if nth == 0 {
            let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(values: [f64; 2]) -> Goal {
        let parts = vec![
            Part::count("speed", Bound::AtLeast(3.0, 5.0), values[0]),
            Part::count("cost", Bound::AtMost(0.7, 0.45), values[1]),
        ];
        Goal {
            name: "a row",
            parts,
            note: String::new(),
        }
    }

    #[test]
    fn a_row_is_as_good_as_its_worst_figure() {
        for (values, met) in [
            ([5.0, 0.45], Met::Aim),
            ([4.9, 0.1], Met::Must),
            ([5.0, 0.5], Met::Must),
            ([2.9, 0.1], Met::No),
            ([9.0, 0.71], Met::No),
        ] {
            assert_eq!(goal(values).met(), met, "{values:?}");
        }
        let unknown = Goal::missing("x", "no Xen", vec![("y", Bound::Yes)]);
        assert_eq!(unknown.met(), Met::No);
        assert_eq!(unknown.json()["value"], Value::Null);
    }

    #[test]
    fn machines_get_numbers() {
        let json = goal([3.5, 0.2]).json();
        assert_eq!(json["value"], json!([3.5, 0.2]));
        assert_eq!(json["must"], json!([3.0, 0.7]));
        assert_eq!(json["met"], "must");
        let single = Goal {
            parts: vec![Part::holds("", true)],
            ..goal([0.0, 0.0])
        };
        assert_eq!(single.json()["value"], json!(true));
        assert!(table(&[single]).contains("| yes"));
    }
}
