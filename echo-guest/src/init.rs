//! Being `/init` of a Linux guest: process 1, which must never end.
//!
//! The kernel gives it the console as standard input, output and error (`console=hvc0`), and
//! nothing else: no `/proc`, no devices, no modules.
//!
//! `extra="console=hvc0 client=3 read-size=524288 write-size=524288"` names another client than
//! domain 0, and rings of another size, in bytes, as for the echo on bare Xen.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use echo_guest::Serving;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, getpid, wait};

use crate::{note, pause};

/// The modules that Xen's devices need, and the file that says in which order.
const MODULES: &str = "/lib/modules-xen";

/// Where XenStore is reached.
const XENBUS: &str = "/dev/xen/xenbus";

/// What the server opens. XenStore may also be in the older place, where xenfs has it.
const DEVICES: [&[&str]; 3] = [
    &["/dev/xen/evtchn"],
    &["/dev/xen/gntalloc"],
    &[XENBUS, "/proc/xen/xenbus"],
];

/// How long devices may take to appear once their modules are loaded.
const DEVICES_APPEAR_WITHIN: Duration = Duration::from_secs(10);

/// Whether this process is the system's first.
pub fn is_init() -> bool {
    getpid().is_init()
}

/// Makes a system of the guest and serves in it, whatever happens.
pub fn run() -> ! {
    if let Err(error) = thread::Builder::new().spawn(reap) {
        note(format_args!("cannot start a thread: {error}"));
    }
    loop {
        // In a thread: even a panic must not end process 1, which would stop the whole guest.
        match thread::Builder::new().spawn(live) {
            Ok(life) => drop(life.join()),
            Err(error) => note(format_args!("cannot start a thread: {error}")),
        }
        pause();
    }
}

fn live() {
    set_up();
    // The kernel puts those words of its command line there that mean nothing to itself.
    let mut serving = as_told(|word| env::var(word).ok());
    loop {
        let Err(error) = wait_for_devices().and_then(|()| crate::serve(&mut serving));
        note(format_args!("{error:#}; trying again"));
        pause();
    }
}

/// What the command line asks for. A value that is of no use is said, and the usual one taken: there
/// is nobody to start this guest anew.
fn as_told(value_of: impl Fn(&str) -> Option<String>) -> Serving {
    fn take<T: FromStr>(field: &mut T, word: &str, value: Option<String>) {
        match value.as_deref().map(str::parse) {
            Some(Ok(value)) => *field = value,
            Some(Err(_)) => note(format_args!(
                "{word}= in the command line is no number in range"
            )),
            None => {}
        }
    }
    let mut serving = Serving::default();
    take(&mut serving.client, "client", value_of("client"));
    take(&mut serving.read_size, "read-size", value_of("read-size"));
    take(
        &mut serving.write_size,
        "write-size",
        value_of("write-size"),
    );
    serving
}

/// Mounts, and loads modules. What fails is said: perhaps it works without.
fn set_up() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        said(mounted(kind, target));
    }
    said(load_modules(Path::new(MODULES)));
    if !Path::new(XENBUS).exists() {
        said(mounted("xenfs", "/proc/xen"));
    }
}

fn said(result: anyhow::Result<()>) {
    if let Err(error) = result {
        note(format_args!("{error:#}"));
    }
}

fn mounted(kind: &str, target: &str) -> anyhow::Result<()> {
    // Fails where the directory is there, which is just as well.
    let _ = fs::create_dir(target);
    match mount(kind, target, kind, MountFlags::empty(), None) {
        // EBUSY: somebody has mounted it before.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind} on {target}")),
    }
}

/// Loads the modules that the file `order` names, one a line.
fn load_modules(directory: &Path) -> anyhow::Result<()> {
    let order = directory.join("order");
    let order = match fs::read_to_string(&order) {
        Ok(order) => order,
        // Then everything is built into the kernel.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| order.display().to_string()),
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        said(load_module(&directory.join(name)));
    }
    Ok(())
}

fn load_module(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    match rustix::system::finit_module(&file, c"", 0) {
        // EEXIST: it is loaded already, or built into the kernel.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot load {}", path.display())),
    }
}

fn wait_for_devices() -> anyhow::Result<()> {
    let deadline = Instant::now() + DEVICES_APPEAR_WITHIN;
    for names in DEVICES {
        while !names.iter().any(|name| Path::new(name).exists()) {
            if Instant::now() >= deadline {
                bail!(
                    "there is no {}: is this a Xen guest, and is the module in {MODULES}?",
                    names.join(" or ")
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Takes note of the death of processes that were left to process 1.
fn reap() -> Infallible {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            // There is no child now. The dead cost next to nothing meanwhile.
            Err(_) => thread::sleep(Duration::from_secs(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use vchan::DomId;

    use super::as_told;

    #[test]
    fn the_command_line_names_the_client_and_the_sizes() {
        let told = as_told(|word| match word {
            "client" => Some("3".to_owned()),
            "read-size" => Some("524288".to_owned()),
            "write-size" => Some("1024".to_owned()),
            _ => None,
        });
        assert_eq!(told.client, DomId::new(3).unwrap());
        assert_eq!((told.read_size, told.write_size), (524_288, 1024));
    }

    #[test]
    fn what_is_no_number_changes_nothing() {
        let (told, usual) = (as_told(|_| Some("large".to_owned())), as_told(|_| None));
        assert_eq!(told.client, usual.client);
        assert_eq!(told.read_size, usual.read_size);
        assert_eq!(told.write_size, usual.write_size);
    }
}
