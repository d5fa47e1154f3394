//! The console: what `xl console` shows and types.

use core::cell::{OnceCell, RefCell, RefMut};
use core::fmt;
use core::time::Duration;

use unikernel_core::console::Console;
use vchan::HostError;
use vchan::host::Time;

use crate::boot::Ring;
use crate::cell::OneCpu;
use crate::xen::event;
use crate::{events, shared_info};

/// How long a full ring is waited for. Where nobody reads the console, the rest is left out.
const PATIENCE: Duration = Duration::from_secs(1);

static CONSOLE: OneCpu<OnceCell<RefCell<Output>>> = OneCpu::new(OnceCell::new());

struct Output {
    ring: Console,
    port: u32,
    /// Nobody has read for [`PATIENCE`]: not waited for again until somebody does.
    is_stuck: bool,
}

pub(crate) fn set_up(ring: Ring) {
    let console = Output {
        ring: Console::new(ring.page),
        port: ring.port,
        is_stuck: false,
    };
    // It is called once.
    let _ = CONSOLE.set(RefCell::new(console));
}

/// The console, unless it is being used: an exception may happen at any place.
fn console() -> Option<RefMut<'static, Output>> {
    CONSOLE.get()?.try_borrow_mut().ok()
}

/// Writes text on the console. What nobody reads is left out.
pub fn print(text: fmt::Arguments<'_>) {
    // It never fails.
    let _ = fmt::write(&mut Pieces, text);
}

/// Text as it comes, piece by piece. What makes a piece is the program's own and may itself write
/// something, or panic: the console is not in use then.
struct Pieces;

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut console) = console() {
            console.write_text(text);
        }
        Ok(())
    }
}

/// Takes what was typed, up to the length of `to`, without waiting; 0: nothing was.
pub fn read(to: &mut [u8]) -> usize {
    console().map_or(0, |console| {
        let count = console.ring.read(to).unwrap_or(0);
        if count > 0 {
            console.tell();
        }
        count
    })
}

/// Sleeps until something may have been typed, or until `deadline`; may return earlier.
///
/// # Errors
/// When the domain is to shut down.
pub fn wait(deadline: Option<Time>) -> Result<(), HostError> {
    match CONSOLE.get() {
        // What is seen after this came before the next event.
        Some(console) => {
            let port = console.borrow().port;
            let waited = events::wait(&[port], deadline);
            shared_info::take_pending(port);
            waited
        }
        None => Ok(()),
    }
}

/// How long the last words may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Gives the last words the time to be read.
pub(crate) fn drain() {
    if let Some(console) = console() {
        // The reader sends an event when it has read something.
        shared_info::take_pending(console.port);
        console.tell();
        let deadline = shared_info::now().after(LAST_WORDS);
        events::poll(&[console.port], Some(deadline));
    }
}

impl Output {
    fn tell(&self) {
        // It can only fail for a port that is none.
        let _ = event::send(self.port);
    }

    /// Waits until there is room for one more byte, at most as long as somebody may still read.
    fn wait_for_room(&mut self, deadline: Time) {
        if !shared_info::take_pending(self.port) {
            events::poll(&[self.port], Some(deadline));
        }
        self.is_stuck = deadline <= shared_info::now();
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut deadline = None;
        while !rest.is_empty() {
            match self.ring.write(rest) {
                // A backend that breaks the rules reads nothing more.
                Err(_) => return,
                Ok(0) if self.is_stuck => return,
                Ok(0) => {
                    let now = shared_info::now();
                    self.wait_for_room(*deadline.get_or_insert_with(|| now.after(PATIENCE)));
                }
                Ok(count) => {
                    rest = &rest[count..];
                    (self.is_stuck, deadline) = (false, None);
                    self.tell();
                }
            }
        }
    }

    /// A carriage return goes before each new line, as a terminal wants it.
    fn write_text(&mut self, text: &str) {
        for line in text.as_bytes().split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    self.write(line);
                    self.write(b"\r\n");
                }
                None => self.write(line),
            }
        }
    }
}

/// Writes on the console, as `std`'s macro of the same name does on standard output.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Writes a line on the console, as `std`'s macro of the same name does on standard output.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(::core::format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
