//! Group E of the fault catalogue: XenStore that dies, lies, refuses or floods. Each test is named
//! after its entry; docs/TESTING.md has the table.

#[path = "../common/mod.rs"]
mod common;

mod hanging;
mod keys;
mod limits;
mod permissions;
mod restart;
mod stopped;
mod watches;

use std::io::{Read, Write};
use std::time::Duration;

use vchan::host::Store;
use vchan::{Channel, Client, DomId, Error, Host, StorePath};

use common::{GUEST, guest, proxy};

/// Long enough for anything that is to happen at once, on a machine that stops for some seconds in
/// the middle of it; shorter than anything that is waited for in vain.
const PROMPT: Duration = Duration::from_secs(25);

/// A time that a test lets pass to see that nothing happens.
const SHORT: Duration = Duration::from_millis(60);

/// A key of the default path, as everyone names it.
fn key(name: &str) -> StorePath {
    path(&format!("/local/domain/{GUEST}/data/vchan/{name}"))
}

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn connect(host: &Host, timeout: Duration) -> Result<Channel, Error> {
    Client::builder(host, guest()).timeout(timeout).connect()
}

/// Moves bytes both ways.
fn talk(ours: &mut Channel, theirs: &mut Channel) {
    let mut carry = |there: bool| {
        let (from, to) = if there {
            (&mut *ours, &mut *theirs)
        } else {
            (&mut *theirs, &mut *ours)
        };
        let bytes = common::pattern(10_000, 7);
        from.write_all(&bytes).unwrap();
        let mut read = vec![0; bytes.len()];
        to.read_exact(&mut read).unwrap();
        assert!(read == bytes, "the bytes are others");
    };
    carry(true);
    carry(false);
}

/// What a store says of a node, whatever it is.
fn value(store: &dyn Store, path: &StorePath) -> Option<String> {
    let value = store.read(path).ok()?;
    Some(String::from_utf8_lossy(&value).into_owned())
}
