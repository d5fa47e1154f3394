//! `cargo xtask pictures`: draws docs/pictures/*.svg from the texts beside them.
//!
//! A text is a picture already: box-drawing characters are lines, `▶◀▲▼` are arrow heads, and the
//! rest is writing. Words two spaces apart are placed on their own; `*words*` are bold.
//! The first line, `# title`, is for readers who cannot see the picture.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

/// A character's cell, in pixels.
const WIDTH: usize = 8;
const HEIGHT: usize = 18;
/// White around the picture.
const MARGIN: usize = 12;
const INK: &str = "#1f2328";

/// Draws every picture anew.
pub fn draw_all() -> Result<ExitCode> {
    for (text, svg) in sources()? {
        let drawing = draw(&std::fs::read_to_string(&text)?);
        std::fs::write(&svg, drawing).with_context(|| format!("cannot write {}", svg.display()))?;
        let name = svg.file_name().unwrap_or_default().to_string_lossy();
        println!("drew docs/pictures/{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The texts, and the pictures drawn from them.
fn sources() -> Result<Vec<(PathBuf, PathBuf)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
    {
        let text = entry?.path();
        if text.extension().is_some_and(|extension| extension == "txt") {
            texts.push((text.clone(), text.with_extension("svg")));
        }
    }
    texts.sort();
    Ok(texts)
}

/// Which sides of its cell a line character reaches.
struct Arms {
    up: bool,
    down: bool,
    left: bool,
    right: bool,
}

fn arms(character: char) -> Option<Arms> {
    let sides = match character {
        '─' => "lr",
        '│' => "ud",
        '┌' => "dr",
        '┐' => "dl",
        '└' => "ur",
        '┘' => "ul",
        '├' => "udr",
        '┤' => "udl",
        '┬' => "dlr",
        '┴' => "ulr",
        '┼' => "udlr",
        // The shaft of an arrow reaches to the middle of its head.
        '▶' => "l",
        '◀' => "r",
        '▲' => "d",
        '▼' => "u",
        _ => return None,
    };
    let has = |side| sides.contains(side);
    Some(Arms {
        up: has('u'),
        down: has('d'),
        left: has('l'),
        right: has('r'),
    })
}

/// One picture.
fn draw(text: &str) -> String {
    let (title, body) = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("# ") => (first.trim_start_matches("# "), rest),
        _ => ("", text),
    };
    let rows: Vec<Vec<char>> = body
        .trim_matches('\n')
        .lines()
        .map(|line| line.chars().collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let (width, height) = (
        columns * WIDTH + 2 * MARGIN,
        rows.len() * HEIGHT + 2 * MARGIN,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n",
        escape(title)
    );
    lines(&rows, &mut svg);
    heads(&rows, &mut svg);
    writing(&rows, &mut svg);
    svg.push_str("</svg>\n");
    svg
}

/// The middle of a cell, in pixels.
fn centre(row: usize, column: usize) -> (usize, usize) {
    (
        MARGIN + column * WIDTH + WIDTH / 2,
        MARGIN + row * HEIGHT + HEIGHT / 2,
    )
}

/// All strokes, joined where they go on.
fn lines(rows: &[Vec<char>], svg: &mut String) {
    // Half a cell each, by its start: (y, x) of those that lie, (x, y) of those that stand.
    let (mut lying, mut standing) = (BTreeSet::new(), BTreeSet::new());
    for (row, line) in rows.iter().enumerate() {
        for (column, &character) in line.iter().enumerate() {
            let Some(arms) = arms(character) else {
                continue;
            };
            let (x, y) = centre(row, column);
            if arms.left {
                lying.insert((y, x - WIDTH / 2));
            }
            if arms.right {
                lying.insert((y, x));
            }
            if arms.up {
                standing.insert((x, y - HEIGHT / 2));
            }
            if arms.down {
                standing.insert((x, y));
            }
        }
    }
    let mut path = String::new();
    for (y, from, to) in joined(&lying, WIDTH / 2) {
        let _ = write!(path, "M{from} {y}H{to}");
    }
    for (x, from, to) in joined(&standing, HEIGHT / 2) {
        let _ = write!(path, "M{x} {from}V{to}");
    }
    let _ = writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{INK}\" stroke-linecap=\"square\"/>"
    );
}

/// Joins strokes of one length that touch: the line they lie on, where they begin and end.
fn joined(strokes: &BTreeSet<(usize, usize)>, length: usize) -> Vec<(usize, usize, usize)> {
    let mut long: Vec<(usize, usize, usize)> = Vec::new();
    for &(line, from) in strokes {
        match long.last_mut() {
            Some((same, _, to)) if *same == line && *to == from => *to += length,
            _ => long.push((line, from, from + length)),
        }
    }
    long
}

/// The arrow heads: triangles whose point lies on the far side of the cell.
fn heads(rows: &[Vec<char>], svg: &mut String) {
    for (row, line) in rows.iter().enumerate() {
        for (column, &character) in line.iter().enumerate() {
            let (x, y) = centre(row, column);
            let (left, right) = (x - WIDTH / 2, x + WIDTH / 2);
            let (top, bottom) = (y - WIDTH / 2, y + WIDTH / 2);
            let corners = match character {
                '▶' => [(left, top), (right, y), (left, bottom)],
                '◀' => [(right, top), (left, y), (right, bottom)],
                '▼' => [(left, top), (x, bottom), (right, top)],
                '▲' => [(left, bottom), (x, top), (right, bottom)],
                _ => continue,
            };
            let points = corners.map(|(x, y)| format!("{x},{y}")).join(" ");
            let _ = writeln!(svg, "<polygon points=\"{points}\" fill=\"{INK}\"/>");
        }
    }
}

/// The words, each run at its column and as wide as its cells, whatever font there is.
fn writing(rows: &[Vec<char>], svg: &mut String) {
    let _ = writeln!(
        svg,
        "<g fill=\"{INK}\" font-size=\"13\" \
         font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">"
    );
    for (row, line) in rows.iter().enumerate() {
        for (start, run) in runs(line) {
            let (x, y) = (MARGIN + start * WIDTH, MARGIN + row * HEIGHT + HEIGHT - 5);
            let length = run.chars().count() * WIDTH;
            let bold = run.strip_prefix('*').and_then(|run| run.strip_suffix('*'));
            let (weight, x, length, run) = match bold {
                Some(bold) => (" font-weight=\"bold\"", x, length - 2 * WIDTH, bold),
                None => ("", x, length, run.as_str()),
            };
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\"{weight}>{}</text>",
                escape(run)
            );
        }
    }
    svg.push_str("</g>\n");
}

/// The words of a line that belong together, and the column each run begins in: two spaces or a
/// line character end it.
fn runs(line: &[char]) -> Vec<(usize, String)> {
    let mut runs: Vec<(usize, String)> = Vec::new();
    let mut end = None;
    for (column, &character) in line.iter().enumerate() {
        if character == ' ' || arms(character).is_some() {
            continue;
        }
        match (runs.last_mut(), end) {
            (Some((_, run)), Some(end)) if column == end => run.push(character),
            (Some((_, run)), Some(end)) if column == end + 1 && line.get(end) == Some(&' ') => {
                run.push(' ');
                run.push(character);
            }
            _ => runs.push((column, character.to_string())),
        }
        end = Some(column + 1);
    }
    runs
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_in_the_repository_are_those_of_the_texts() {
        let sources = sources().unwrap();
        assert!(!sources.is_empty());
        for (text, svg) in sources {
            let drawn = draw(&std::fs::read_to_string(&text).unwrap());
            let kept = std::fs::read_to_string(&svg).unwrap_or_default();
            assert!(
                drawn == kept,
                "{} is not what its text gives: cargo xtask pictures",
                svg.display()
            );
        }
    }

    #[test]
    fn a_box_is_four_lines_and_a_word() {
        let svg = draw("# a box\n┌────┐\n│ a<b│\n└────┘\n");
        assert!(svg.contains("<title>a box</title>"));
        assert!(
            svg.contains("M16 21H56M16 57H56M16 21V57M56 21V57"),
            "{svg}"
        );
        assert!(svg.contains("textLength=\"24\">a&lt;b</text>"), "{svg}");
    }

    #[test]
    fn words_two_spaces_apart_are_placed_on_their_own() {
        let line: Vec<char> = " one two   *three*│four".chars().collect();
        let found: Vec<(usize, String)> = runs(&line);
        let expected = [(1, "one two"), (11, "*three*"), (19, "four")];
        assert_eq!(found, expected.map(|(at, run)| (at, run.to_string())));
    }
}
