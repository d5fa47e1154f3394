//! The console: two rings of bytes in the page that every guest is born with.
//!
//! The page is that of Xen's public header `io/console.h`: 1024 bytes of input, 2048 of output, and
//! four indices. The backend, xenconsoled in dom0, is told of every change by an event.

use alloc::vec::Vec;

use vchan::memory::Region;

pub use crate::track::Impossible;
use crate::track::{Layout, Track};

const INPUT: Layout = Layout {
    start: 0,
    size: 1024,
    consumer: 3072,
    producer: 3076,
};

const OUTPUT: Layout = Layout {
    start: 1024,
    size: 2048,
    consumer: 3080,
    producer: 3084,
};

/// The guest's end of its console.
///
/// ```
/// # use vchan::memory::Region;
/// use unikernel_core::console::Console;
///
/// /// Prints all of `text`; `tell` sends the console's event, `wait` sleeps until one comes.
/// fn print(console: &Console, text: &str, tell: impl Fn(), wait: impl Fn()) {
///     let bytes = Console::lines(text);
///     let mut rest = &bytes[..];
///     // A console whose backend breaks the rules is of no further use: the guest lives on.
///     while let Ok(count) = console.write(rest) {
///         rest = &rest[count..];
///         tell();
///         if rest.is_empty() {
///             break;
///         }
///         wait();
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Console {
    page: Region,
    input: Track,
    output: Track,
}

impl Console {
    /// The console in `page`, one page that is readable and writable. It goes on where an earlier
    /// stage of the boot has left it.
    #[must_use]
    pub fn new(page: Region) -> Console {
        let (input, output) = (
            Track::consumer(&page, INPUT),
            Track::producer(&page, OUTPUT),
        );
        Console {
            page,
            input,
            output,
        }
    }

    /// Text as a terminal wants it: a carriage return before each new line.
    #[must_use]
    pub fn lines(text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len());
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                bytes.push(b'\r');
            }
            bytes.push(byte);
        }
        bytes
    }

    /// Puts as much of `bytes` into the output as there is room for, and gives how many. The backend
    /// has to be told then; it sends an event when it has made room.
    ///
    /// # Errors
    /// [`Impossible`]: nothing was written, and nothing can be.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Impossible> {
        self.output.write(&self.page, bytes)
    }

    /// Takes what has been typed, as much as `to` holds, and gives how many bytes. The backend has to
    /// be told if there were any; it sends an event when more comes.
    ///
    /// # Errors
    /// [`Impossible`]: nothing was read, and nothing can be.
    pub fn read(&self, to: &mut [u8]) -> Result<usize, Impossible> {
        self.input.read(&self.page, to)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::vec;

    use super::*;
    use crate::track::tests::page;

    fn shared() -> (Console, Region) {
        use std::os::fd::AsFd;
        use vchan::memory::{Access, PAGE_SIZE};
        let file = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, PAGE_SIZE as u64).unwrap();
        let map = || Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap();
        (Console::new(map()), map())
    }

    #[test]
    fn output_and_input_lie_where_xenconsoled_looks() {
        let (console, daemon) = shared();
        assert_eq!(console.write(b"hello").unwrap(), 5);
        let mut bytes = [0; 5];
        daemon.copy_out(1024, &mut bytes);
        assert_eq!(&bytes, b"hello");
        assert_eq!(daemon.load_index(3084, Ordering::Acquire), 5);
        daemon.copy_in(0, b"ls\n");
        daemon.store_index(3076, 3, Ordering::Release);
        let mut typed = [0; 8];
        assert_eq!(console.read(&mut typed).unwrap(), 3);
        assert_eq!(&typed[..3], b"ls\n");
        assert_eq!(daemon.load_index(3072, Ordering::Acquire), 3);
    }

    #[test]
    fn a_full_console_takes_what_fits() {
        let (console, daemon) = shared();
        assert_eq!(console.write(&vec![b'x'; 5000]).unwrap(), 2048);
        assert_eq!(console.write(b"y").unwrap(), 0);
        daemon.store_index(3080, 2000, Ordering::Release);
        assert_eq!(console.write(&vec![b'y'; 5000]).unwrap(), 2000);
    }

    #[test]
    fn a_backend_that_lies_is_refused_and_may_come_to_its_senses() {
        let (console, daemon) = shared();
        daemon.store_index(3080, 1, Ordering::Release);
        assert!(console.write(b"hello").is_err());
        daemon.store_index(3076, 1025, Ordering::Release);
        assert!(console.read(&mut [0; 8]).is_err());
        daemon.store_index(3080, 0, Ordering::Release);
        assert_eq!(console.write(b"hello").unwrap(), 5);
    }

    #[test]
    fn it_goes_on_where_it_was_left() {
        let page = page();
        page.store_index(3080, 70_000, Ordering::Relaxed);
        page.store_index(3084, 70_010, Ordering::Relaxed);
        let console = Console::new(page);
        assert_eq!(console.write(&vec![0; 4000]).unwrap(), 2038);
    }

    #[test]
    fn lines_return_the_carriage() {
        assert_eq!(Console::lines("a\n\nb"), b"a\r\n\r\nb");
    }
}
