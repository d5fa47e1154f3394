//! The library without std: were std among the crates, this would have two panic handlers and not
//! compile. It asks a XenStore over a wire, and ends with 0 when the answer is right.
//!
//! UNSAFETY: it is started by the C library, gives the heap its memory, and defines what the compiled
//! parts of `alloc` ask the linker for.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::VecDeque;
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use unikernel_core::executor::{Executor, Ports};
use unikernel_core::heap::{Heap, heap};
use vchan::host::{Port, Store, Time};
use vchan::task::Runtime;
use vchan::xenstore::codec::Decoder;
use vchan::xenstore::{Wire, WireClient};
use vchan::{HostError, StorePath};

#[global_allocator]
static HEAP: Heap = heap();

const MEMORY: usize = 1 << 20;

/// The heap's memory.
#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; MEMORY]>);

// SAFETY: only the heap uses it, which has a lock.
unsafe impl Sync for Memory {}

static ALL: Memory = Memory(UnsafeCell::new([0; MEMORY]));

#[link(name = "c")]
unsafe extern "C" {
    safe fn abort() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

/// The compiled parts of `alloc` name it; without unwinding nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    abort()
}

/// A XenStore that answers every request with its own payload.
struct Echo(spin::Mutex<(Decoder, VecDeque<u8>)>);

impl Wire for Echo {
    fn receive(&self, to: &mut [u8]) -> Result<usize, HostError> {
        let waiting = &mut self.0.lock().1;
        let count = to.len().min(waiting.len());
        for (to, byte) in to.iter_mut().zip(waiting.drain(..count)) {
            *to = byte;
        }
        Ok(count)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, HostError> {
        let (decoder, waiting) = &mut *self.0.lock();
        decoder.push(bytes);
        while let Ok(Some(request)) = decoder.next_message() {
            waiting.extend(request.encode().unwrap_or_default());
        }
        Ok(bytes.len())
    }

    fn wait(&self, _: Option<Time>) -> Result<(), HostError> {
        Err(HostError::new("wait for a store that answers at once"))
    }

    fn reconnect(&self, _: Time) -> Result<(), HostError> {
        Err(HostError::new("begin anew"))
    }

    fn now(&self) -> Time {
        Time(Duration::ZERO)
    }
}

/// A machine on which nothing happens but that time goes by.
#[derive(Default)]
struct Machine(spin::Mutex<Duration>);

impl Ports for Machine {
    fn now(&self) -> Time {
        Time(*self.0.lock())
    }

    fn is_pending(&self, _: Port) -> bool {
        false
    }

    fn clear(&self, _: Port) {}

    fn sleep(&self, _: &[Port], deadline: Option<Time>) {
        *self.0.lock() = deadline.unwrap_or_else(|| abort()).0;
    }

    fn heed(&self) {}

    fn store(&self) -> Port {
        Port(1)
    }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    // SAFETY: the memory is nobody else's, and lives as long as the program.
    unsafe { HEAP.lock().claim(ALL.0.get().cast(), MEMORY) };

    let store = WireClient::new(Echo(spin::Mutex::default()));
    let path: StorePath = "data/vchan".parse().unwrap_or_else(|_| abort());
    if store.read(&path).unwrap_or_default() != b"data/vchan\0" {
        return 1;
    }

    let executor = Executor::new(Machine::default());
    let runtime = Runtime::new(executor.clone());
    let ran = alloc::sync::Arc::new(AtomicBool::new(false));
    let (flag, sleeping) = (ran.clone(), runtime.clone());
    executor.spawn(async move {
        sleeping.sleep(Duration::from_secs(1)).await;
        flag.store(true, Ordering::Relaxed);
    });
    executor.block_on(runtime.sleep(Duration::from_secs(2)));
    i32::from(!ran.load(Ordering::Relaxed))
}
