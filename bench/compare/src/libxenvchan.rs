//! The C library as a transport: `libxenvchan.h`, over the emulated host.
//!
//! UNSAFETY: the library is called through its header's functions, with channels that
//! [`CVchan::connect`] opened and that nobody else has, and with buffers as long as they say.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::ptr::NonNull;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vchan::{DomId, Host};
use vchan_bench::peers::vchan::{Emulated, Mode};
use vchan_bench::{Failure, Peer, Polled, Transport};

/// The beginning of `struct libxenvchan`: all that a program needs of it.
#[repr(C)]
struct Libxenvchan {
    mapping: *mut c_void,
    ring: *mut c_void,
    event: *mut c_void,
    event_port: u32,
    /// Bit fields: `is_server`, `server_persist`, `blocking`, from the lowest bit up.
    flags: u32,
}

const BLOCKING: u32 = 1 << 2;

unsafe extern "C" {
    fn libxenvchan_server_init(
        logger: *mut c_void,
        domain: c_int,
        path: *const c_char,
        read_min: usize,
        write_min: usize,
    ) -> *mut Libxenvchan;
    fn libxenvchan_client_init(
        logger: *mut c_void,
        domain: c_int,
        path: *const c_char,
    ) -> *mut Libxenvchan;
    fn libxenvchan_close(channel: *mut Libxenvchan);
    fn libxenvchan_recv(channel: *mut Libxenvchan, data: *mut c_void, size: usize) -> c_int;
    fn libxenvchan_read(channel: *mut Libxenvchan, data: *mut c_void, size: usize) -> c_int;
    fn libxenvchan_send(channel: *mut Libxenvchan, data: *const c_void, size: usize) -> c_int;
    fn libxenvchan_write(channel: *mut Libxenvchan, data: *const c_void, size: usize) -> c_int;
    fn libxenvchan_wait(channel: *mut Libxenvchan) -> c_int;
    fn libxenvchan_fd_for_select(channel: *mut Libxenvchan) -> c_int;
}

/// A vchan of the C library whose ends wait in one of the ways.
#[derive(Clone)]
pub struct CVchan {
    host: Emulated,
    mode: Mode,
}

impl CVchan {
    /// Channels on `host`; `None` when this program was linked without the C library.
    #[must_use]
    pub fn new(host: Emulated, mode: Mode) -> Option<CVchan> {
        Some(CVchan { host, mode })
    }

    fn directory(&self, domid: DomId) -> PathBuf {
        self.host.emulator().domain_directory(domid)
    }

    fn open(
        &self,
        host: &Host,
        domid: DomId,
        capacity: usize,
        init: impl FnOnce() -> *mut Libxenvchan,
    ) -> Result<CPeer, Failure> {
        let channel = xen_shim::within(host, &self.directory(domid), init);
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        let mut peer = CPeer {
            channel,
            mode: self.mode,
            longest: capacity,
            host: host.clone(),
            directory: self.directory(domid),
        };
        peer.set_blocking(matches!(self.mode, Mode::Blocking | Mode::Sleep));
        Ok(peer)
    }
}

impl Transport for CVchan {
    type Peer = CPeer;

    fn name(&self) -> String {
        format!("libxenvchan, {}", self.mode.name())
    }

    fn connect(&self, capacity: usize) -> Result<(CPeer, CPeer), Failure> {
        let [left, right] = Emulated::domids();
        let [left_host, right_host] = self.host.hosts();
        let theirs = CString::new("data/bench-c").map_err(io::Error::from)?;
        let path = format!("/local/domain/{right}/data/bench-c");
        let ours = CString::new(path).map_err(io::Error::from)?;
        let server = self.open(right_host, right, capacity, || {
            let (logger, peer) = (std::ptr::null_mut(), left.number().into());
            // SAFETY: the path is a string with a NUL at its end.
            unsafe { libxenvchan_server_init(logger, peer, theirs.as_ptr(), capacity, capacity) }
        })?;
        let client = self.open(left_host, left, capacity, || {
            let (logger, peer) = (std::ptr::null_mut(), right.number().into());
            // SAFETY: as above.
            unsafe { libxenvchan_client_init(logger, peer, ours.as_ptr()) }
        })?;
        Ok((client, server))
    }
}

/// An end of such a vchan.
#[derive(Debug)]
pub struct CPeer {
    channel: NonNull<Libxenvchan>,
    mode: Mode,
    longest: usize,
    /// The domain that it belongs to.
    host: Host,
    directory: PathBuf,
}

// SAFETY: the library keeps nothing in the thread that opened a channel; one thread at a time has it.
unsafe impl Send for CPeer {}

impl CPeer {
    fn set_blocking(&mut self, blocking: bool) {
        // SAFETY: the channel is open, and nobody else has it.
        let channel = unsafe { self.channel.as_mut() };
        if blocking {
            channel.flags |= BLOCKING;
        } else {
            channel.flags &= !BLOCKING;
        }
    }

    /// Makes a call, again and again while it does nothing.
    #[inline]
    fn call(&mut self, mut call: impl FnMut(*mut Libxenvchan) -> c_int) -> io::Result<usize> {
        loop {
            match usize::try_from(call(self.channel.as_ptr())) {
                Ok(0) => self.wait()?,
                Ok(count) => return Ok(count),
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.mode == Mode::Spin {
            std::hint::spin_loop();
            return Ok(());
        }
        match self.take_event(60)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Receives a message that does not fit into the ring.
    #[cold]
    fn streamed(&mut self, to: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        while at < to.len() {
            at += self.read(&mut to[at..])?;
        }
        Ok(())
    }

    /// Takes the next event, if it comes within so many seconds, as an event loop does.
    fn take_event(&mut self, seconds: i64) -> io::Result<bool> {
        // SAFETY: the channel is open.
        let descriptor = unsafe { libxenvchan_fd_for_select(self.channel.as_ptr()) };
        // SAFETY: the descriptor is the channel's, which outlives the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let patience = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&descriptor, PollFlags::IN)];
        if poll(&mut ready, Some(&patience))? == 0 {
            return Ok(false);
        }
        // SAFETY: the channel is open. It takes the event, and does not wait: there is one.
        unsafe { libxenvchan_wait(self.channel.as_ptr()) };
        Ok(true)
    }

    /// What a call of an end that is polled returned.
    fn polled(&mut self, returned: c_int) -> io::Result<Option<usize>> {
        match usize::try_from(returned) {
            Ok(0) => {
                self.take_event(0)?;
                Ok(None)
            }
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Peer for CPeer {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // SAFETY: the channel is open, and `bytes` is as long as it says.
            let count = self.call(|channel| unsafe {
                libxenvchan_write(channel, bytes.as_ptr().cast(), bytes.len())
            })?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the channel is open, and `to` is as long as it says.
        self.call(|channel| unsafe { libxenvchan_read(channel, to.as_mut_ptr().cast(), to.len()) })
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // SAFETY: the channel is open, and `message` is as long as it says.
        let sent = self.call(|channel| unsafe {
            libxenvchan_send(channel, message.as_ptr().cast(), message.len())
        });
        match sent {
            Ok(_) => Ok(()),
            Err(_) if message.len() > self.longest => self.write(message),
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn recv(&mut self, to: &mut [u8]) -> io::Result<()> {
        // SAFETY: the channel is open, and `to` is as long as it says.
        let received = self
            .call(|channel| unsafe { libxenvchan_recv(channel, to.as_mut_ptr().cast(), to.len()) });
        match received {
            Ok(_) => Ok(()),
            Err(_) if to.len() > self.longest => self.streamed(to),
            Err(error) => Err(error),
        }
    }
}

/// In the mode [`NonBlocking`](Mode::NonBlocking).
impl Polled for CPeer {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let (channel, data) = (self.channel.as_ptr(), bytes.as_ptr().cast());
        // SAFETY: the channel is open, and `bytes` is as long as it says.
        let returned = unsafe { libxenvchan_write(channel, data, bytes.len()) };
        self.polled(returned)
    }

    fn try_read(&mut self, to: &mut [u8]) -> io::Result<Option<usize>> {
        let (channel, data) = (self.channel.as_ptr(), to.as_mut_ptr().cast());
        // SAFETY: the channel is open, and `to` is as long as it says.
        let returned = unsafe { libxenvchan_read(channel, data, to.len()) };
        self.polled(returned)
    }
}

impl Drop for CPeer {
    fn drop(&mut self) {
        // A server goes back to XenStore, to remove its keys.
        xen_shim::within(&self.host, &self.directory, || {
            // SAFETY: the channel is open, and closed here alone.
            unsafe { libxenvchan_close(self.channel.as_ptr()) };
        });
    }
}
