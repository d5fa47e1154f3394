//! What node-cli says on standard error.

use std::fmt;
use std::io::{self, Write as _};

/// Diagnostics, which `--quiet` silences. Errors are always said.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    quiet: bool,
}

impl Report {
    pub fn new(quiet: bool) -> Report {
        Report { quiet }
    }

    /// Whole lines, as they are.
    pub fn text(self, text: &str) {
        if !self.quiet {
            write_lines(format_args!("{text}"));
        }
    }

    /// One line about what node-cli does.
    pub fn note(self, note: impl fmt::Display) {
        if !self.quiet {
            write_lines(format_args!("node-cli: {note}\n"));
        }
    }
}

/// Why node-cli fails.
pub fn error(error: &dyn fmt::Display) {
    write_lines(format_args!("node-cli: {error}\n"));
}

/// Whoever closed standard error does not want to know.
fn write_lines(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}
