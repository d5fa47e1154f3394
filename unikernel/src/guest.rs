//! The guest as its program sees it, from the first line to the last.

use core::fmt;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use unikernel_core::command_line::CommandLine;
use unikernel_core::executor::Executor;
use vchan::task::Runtime;
use vchan::{Host, HostError};

use crate::boot::Given;
use crate::events::{self, Events, ExecutorPorts};
use crate::grants::GrantTable;
use crate::store::GuestStore;
use crate::xen::sched::{self, Reason};
use crate::{console, heap, power, println, shared_info};

/// The guest that the program is.
#[derive(Debug)]
pub struct Guest {
    host: Host,
    grants: GrantTable,
    command_line: CommandLine,
    executor: Executor<ExecutorPorts>,
}

impl Guest {
    /// The Xen host that the guest is on: what [`vchan::Server`] and [`vchan::Client`] are made on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What `extra=` in the domain's configuration says.
    #[must_use]
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }

    /// Hears what the toolstack wishes, as every wait does. A program that may go on for long without
    /// a wait, as its channels are busy or it computes, asks this now and then; tasks need not.
    ///
    /// # Errors
    /// When the domain is to shut down.
    pub fn heed(&self) -> Result<(), HostError> {
        events::heed()
    }

    /// What the guest's memory is used for now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        // First, as it gives pages back.
        let kept_back = self.grants.kept_back();
        Memory {
            used: heap::used(),
            kept_back,
        }
    }
}

/// What the guest's memory is used for, on the console as
/// `81920 bytes on the heap, 0 pages kept back`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes on the heap, shared pages among them.
    pub used: usize,
    /// How many of its pages are shared no more and cannot be used again yet, because a peer still
    /// has them mapped.
    pub kept_back: usize,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { used, kept_back } = self;
        write!(f, "{used} bytes on the heap, {kept_back} pages kept back")
    }
}

/// Tasks: many channels at once, over `vchan`'s asynchronous face.
impl Guest {
    /// What the asynchronous face asks for, as in
    /// [`Server::accept_on`](vchan::Server::accept_on).
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        Runtime::new(self.executor.clone())
    }

    /// Begins a task, which runs while [`block_on`](Guest::block_on) does.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(work);
    }

    /// Runs `work` and all tasks until `work` is done, sleeping in Xen while none can go on. Not to be
    /// called from a task.
    ///
    /// # Errors
    /// When the domain is to shut down: then `work` and all tasks are dropped where they are.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, HostError> {
        let mut end = pin!(power::until_asked());
        let mut work = pin!(work);
        let done = self.executor.block_on(poll_fn(|cx| {
            if end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(power::to_shut_down()));
            }
            work.as_mut().poll(cx).map(Ok)
        }));
        if done.is_err() {
            self.executor.cancel_all();
        }
        done
    }
}

/// What a program's `main` may return.
pub trait Outcome {
    /// Says on the console what went wrong, if something did; whether all is well.
    fn report(self) -> bool;
}

impl Outcome for () {
    fn report(self) -> bool {
        true
    }
}

impl<T: Outcome, E: fmt::Display> Outcome for Result<T, E> {
    fn report(self) -> bool {
        match self {
            Ok(outcome) => outcome.report(),
            // The way in which it learns that it is to end.
            Err(_) if power::asked().is_some() => true,
            Err(error) => {
                println!("error: {error}");
                false
            }
        }
    }
}

impl Outcome for core::convert::Infallible {
    fn report(self) -> bool {
        match self {}
    }
}

/// A program's `main`, as the macro [`main!`](crate::main) hands it over.
pub type Program = fn(&Guest) -> bool;

#[allow(unsafe_code, reason = "the macro `main!` defines it")]
unsafe extern "Rust" {
    static UNIKERNEL_PROGRAM: Program;
}

/// Names the function that is the program: `fn(&Guest) -> impl Outcome`.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        static UNIKERNEL_PROGRAM: $crate::Program = |guest| $crate::Outcome::report($main(guest));
    };
}

/// How often a server that waits for a client wakes up to look after its keys. The guest is never
/// restored, and idle it is to use next to no processor time.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// The life of the guest.
pub(crate) fn live(given: Given) -> ! {
    shared_info::set_up(given.shared_info);
    console::set_up(given.console);
    let port = given.store.port;
    let grants = GrantTable::new();
    let host = Host::new(grants.clone(), Events, GuestStore::new(given.store));
    host.set_renewal_interval(RENEWAL_INTERVAL);
    if let Err(error) = power::set_up(&host, port) {
        println!("the toolstack's wishes will not be heard: {error}");
    }
    let guest = Guest {
        host,
        grants,
        command_line: CommandLine::parse(given.command_line),
        executor: Executor::new(ExecutorPorts),
    };
    // SAFETY: the macro `main!` gives it this type.
    #[allow(unsafe_code, reason = "the program is another crate's")]
    let program = unsafe { UNIKERNEL_PROGRAM };
    let is_well = program(&guest);
    let reason = match power::asked() {
        Some(reason) => reason,
        None if is_well => Reason::PowerOff,
        None => Reason::Crash,
    };
    console::drain();
    sched::shutdown(reason)
}
