//! What the toolstack asks of the guest: `control/shutdown` in XenStore.

use alloc::boxed::Box;
use core::cell::{Cell, OnceCell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;

use vchan::host::{Time, Watch};
use vchan::{Host, HostError, StoreError, StorePath};

use crate::cell::OneCpu;
use crate::xen::sched::Reason;
use crate::{println, shared_info};

/// How long a store that was lost is left alone, as asking it may take some seconds.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

static LISTENER: OneCpu<OnceCell<Listener>> = OneCpu::new(OnceCell::new());

/// How the domain is to end, once that was asked for.
static ASKED: OneCpu<Cell<Option<Reason>>> = OneCpu::new(Cell::new(None));

/// The task that ends the others then.
static WAITING: OneCpu<RefCell<Option<Waker>>> = OneCpu::new(RefCell::new(None));

struct Listener {
    host: Host,
    port: u32,
    key: StorePath,
    /// `None` when the connection to the store in which it was set is lost.
    watch: RefCell<Option<Box<dyn Watch>>>,
    /// When to set it again.
    retry_at: Cell<Time>,
}

/// Begins to listen. `port` is that of XenStore.
pub(crate) fn set_up(host: &Host, port: u32) -> Result<(), StoreError> {
    let Ok(key) = "control/shutdown".parse::<StorePath>() else {
        unreachable!("it is a path");
    };
    let watch = RefCell::new(Some(host.store().watch(&key)?));
    let host = host.clone();
    // It is called once.
    let _ = LISTENER.set(Listener {
        host,
        port,
        key,
        watch,
        retry_at: Cell::new(shared_info::now()),
    });
    Ok(())
}

/// The port whose event may mean that something is asked.
pub(crate) fn port() -> Option<u32> {
    LISTENER.get().map(|listener| listener.port)
}

/// How the domain is to end, if it is to.
pub(crate) fn asked() -> Option<Reason> {
    ASKED.get()
}

/// Is ready once the domain is to shut down.
pub(crate) async fn until_asked() {
    poll_fn(|cx| match ASKED.get() {
        Some(_) => Poll::Ready(()),
        None => {
            *WAITING.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }
    })
    .await;
}

/// Looks whether something is asked of the guest.
///
/// # Errors
/// When it is to shut down. The error makes its way to the end of the program's `main`, closing
/// everything on the way.
pub(crate) fn obey() -> Result<(), HostError> {
    if let Some(listener) = LISTENER.get()
        && listener.has_fired()
        && let Ok(wish) = listener.host.store().read(&listener.key)
    {
        listener.hear(&wish);
    }
    still_wanted()
}

/// # Errors
/// When the guest is known to have to shut down.
pub(crate) fn still_wanted() -> Result<(), HostError> {
    match ASKED.get() {
        None => Ok(()),
        Some(_) => Err(to_shut_down()),
    }
}

/// Why nothing is waited for any more.
pub(crate) fn to_shut_down() -> HostError {
    HostError::new("wait").because("the domain is to shut down")
}

impl Listener {
    /// Whether there may be a wish. A store that cannot be reached has none.
    ///
    /// The event may have been read already, by whoever asked the store for something else.
    fn has_fired(&self) -> bool {
        let mut watch = self.watch.borrow_mut();
        if watch.is_none() && self.retry_at.get() <= shared_info::now() {
            self.retry_at.set(shared_info::now().after(RETRY_INTERVAL));
            *watch = self.host.store().watch(&self.key).ok();
        }
        match watch.as_ref().map(|watch| watch.take()) {
            Some(Ok(fired)) => fired,
            Some(Err(_)) => {
                *watch = None;
                false
            }
            None => false,
        }
    }

    fn hear(&self, wish: &[u8]) {
        let reason = match wish {
            b"poweroff" | b"halt" => Reason::PowerOff,
            b"reboot" => Reason::Reboot,
            // Cleared by ourselves, or by a toolstack that has given up.
            b"" => return,
            b"suspend" => {
                println!(
                    "suspend is asked for and refused: this guest cannot be saved or migrated"
                );
                return;
            }
            other => {
                let other = other.escape_ascii();
                println!("\"{other}\" is asked for and not known here");
                return;
            }
        };
        // The toolstack sees by it that it was heard.
        if self.host.store().write(&self.key, b"").is_err() {
            println!("the toolstack was not told that its wish was heard");
        }
        ASKED.set(Some(reason));
        if let Some(waker) = WAITING.take() {
            waker.wake();
        }
    }
}
