//! The serial console of the machine: a log, and the lines that dom0 addresses to us.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::process;

/// Marks dom0's lines to us among everything else that a console shows.
const MARK: &str = "@@rig ";

/// One thing that the console said.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// dom0 is up, after so many seconds of its own time.
    Dom0(f64),
    /// A guest is being created, or has this domid.
    Guest(String),
    /// A scenario begins; it may take this many seconds.
    Start(String, u64),
    /// A scenario passed, after so many seconds.
    Pass(String, f64),
    /// A scenario failed.
    Fail(String, f64),
    /// Something to know about the scenario that is running.
    Log(String),
    /// Something that was measured.
    Figure(String),
    /// Something to know about the run as a whole.
    Note(String),
    /// dom0 could not be set up.
    Broken(String),
    /// Everything asked for has been done.
    End,
    /// Not addressed to us.
    Other(String),
}

impl Line {
    fn parse(line: &str) -> Self {
        let line = line.trim_end_matches(['\r', '\n']);
        let Some((_, ours)) = line.split_once(MARK) else {
            return Self::Other(line.to_owned());
        };
        let (verb, rest) = ours.split_once(' ').unwrap_or((ours, ""));
        let (name, number) = rest.split_once(' ').unwrap_or((rest, ""));
        let name = name.to_owned();
        match verb {
            "dom0" => Self::Dom0(rest.parse().unwrap_or_default()),
            "guest" => Self::Guest(rest.to_owned()),
            "start" => Self::Start(name, number.parse().unwrap_or(60)),
            "pass" => Self::Pass(name, number.parse().unwrap_or_default()),
            "fail" => Self::Fail(name, number.parse().unwrap_or_default()),
            "log" => Self::Log(rest.to_owned()),
            "figure" => Self::Figure(rest.to_owned()),
            "note" => Self::Note(rest.to_owned()),
            "broken" => Self::Broken(rest.to_owned()),
            "end" => Self::End,
            _ => Self::Other(line.to_owned()),
        }
    }
}

/// A running machine. Dropping it ends QEMU.
pub struct Machine {
    qemu: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    interrupt: Interrupt,
    /// Everything the console said.
    pub log: PathBuf,
}

impl Machine {
    /// Starts QEMU.
    pub fn start(mut command: Command, interrupt: Interrupt) -> Result<Self> {
        let log = process::xen_directory().join("console.log");
        let mut file = File::create(&log)?;
        let mut qemu = command
            // Ctrl-C in the terminal is ours: QEMU ends when we say so.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let input = qemu.stdin.take().context("QEMU has no standard input")?;
        let output = qemu.stdout.take().context("QEMU has no standard output")?;
        let errors = qemu.stderr.take().context("QEMU has no standard error")?;
        let (sender, lines) = mpsc::channel();
        let complaints = sender.clone();
        std::thread::spawn(move || {
            forward(output, |line| {
                let _ = file.write_all(line);
                sender
                    .send(String::from_utf8_lossy(line).into_owned())
                    .is_ok()
            })
        });
        std::thread::spawn(move || {
            forward(errors, |line| {
                complaints
                    .send(format!("QEMU: {}", String::from_utf8_lossy(line)))
                    .is_ok()
            })
        });
        Ok(Self {
            qemu,
            input,
            lines,
            interrupt,
            log,
        })
    }

    /// The next line, or an error after `patience`, after Ctrl-C, or when QEMU has ended.
    pub fn next(&mut self, patience: Duration) -> Result<Line> {
        let until = Instant::now() + patience;
        while !self.interrupt.happened() {
            if let Some(line) = self.poll()? {
                return Ok(line);
            }
            if Instant::now() > until {
                let seconds = patience.as_secs();
                bail!(
                    "the machine said nothing for {seconds} seconds{}",
                    self.tail()
                );
            }
        }
        bail!("interrupted")
    }

    /// The next line if it comes within a tenth of a second; an error when QEMU has ended.
    pub fn poll(&mut self) -> Result<Option<Line>> {
        match self.lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => Ok(Some(Line::parse(&line))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("QEMU ended before dom0 had finished{}", self.tail())
            }
        }
    }

    /// Waits for dom0, passing other lines to `show`.
    pub fn wait_for_dom0(&mut self, mut show: impl FnMut(&str)) -> Result<f64> {
        loop {
            match self.next(Duration::from_secs(600))? {
                Line::Dom0(seconds) => return Ok(seconds),
                Line::Broken(why) => bail!("{why}{}", self.tail()),
                Line::Other(line) => show(&line),
                _ => {}
            }
        }
    }

    /// Types into the console.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .context("dom0's console is gone")?;
        Ok(self.input.flush()?)
    }

    /// Waits until QEMU has ended by itself, or ends it after ten seconds.
    pub fn finish(self) {
        while self.lines.recv_timeout(Duration::from_secs(10)).is_ok() {}
    }

    /// The console's last lines and where the others are, for an error message.
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|l| !l.is_empty())
            .collect();
        let from = lines.len().saturating_sub(15);
        lines[from..]
            .iter()
            .map(|line| format!("\n  | {line}"))
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn forward(from: impl Read, mut each: impl FnMut(&[u8]) -> bool) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        if !each(&line) {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn lines_to_us_are_found_behind_other_text() {
        assert_eq!(
            Line::parse("@@rig pass pv/a 1.5\r\n"),
            Line::Pass("pv/a".into(), 1.5)
        );
        assert_eq!(Line::parse("(XEN) x@@rig end\r"), Line::End);
        assert_eq!(
            Line::parse("@@rig start pvh/b 30"),
            Line::Start("pvh/b".into(), 30)
        );
        assert_eq!(
            Line::parse("@@rig log it broke here"),
            Line::Log("it broke here".into())
        );
        assert_eq!(Line::parse("hello\r\n"), Line::Other("hello".into()));
    }
}
