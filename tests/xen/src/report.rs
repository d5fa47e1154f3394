//! What is said to the program outside.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// One line to the program outside. It begins on a line of its own, whatever the kernel said, and
/// goes to the console, also from a process whose output is collected.
pub fn report(text: &str) {
    let printable: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect();
    let line = format!("\n@@rig {printable}\n");
    let console = OpenOptions::new().write(true).open("/dev/console");
    // Whole lines at once: several processes may report.
    if !console.is_ok_and(|mut console| console.write_all(line.as_bytes()).is_ok()) {
        print!("{line}");
    }
    // The console is slow under emulation; give it the time to take the line whole.
    std::thread::sleep(Duration::from_millis(5));
}
