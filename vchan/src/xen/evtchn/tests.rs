//! A port over a socket that plays the driver: it reads and writes port numbers as the driver does.

use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::string::ToString;

use super::*;
use crate::xen::life::tests::{Store, life_and_store};

const PORT: Port = Port(7);

fn port_and_driver() -> (BoundPort, UnixStream) {
    let (port, driver, _) = port_driver_and_store();
    (port, driver)
}

fn port_driver_and_store() -> (BoundPort, UnixStream, Store) {
    let (life, store) = life_and_store();
    let (ours, driver) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let port = BoundPort {
        fd: Arc::new(ours.into()),
        life,
        peer: DomId::DOM0,
        port: PORT,
        privcmd: Arc::new(Privcmd::new(Device::new("/nonexistent".into(), "none"))),
        bell: Bell::default(),
    };
    (port, driver, store)
}

#[test]
fn an_event_is_taken_once_and_the_port_unmasked_by_its_number() {
    let (port, mut driver) = port_and_driver();
    assert!(!port.take().unwrap());
    driver.write_all(&7_u32.to_ne_bytes()).unwrap();
    assert!(port.take().unwrap());
    assert!(!port.take().unwrap());
    port.unmask().unwrap();
    let mut written = [0; 4];
    driver.read_exact(&mut written).unwrap();
    assert_eq!(u32::from_ne_bytes(written), 7);
}

#[test]
fn several_ports_in_one_read_and_ports_of_others() {
    let (port, mut driver) = port_and_driver();
    for ports in [[3, 7], [7, 7], [7, 3]] {
        driver
            .write_all(&ports.map(u32::to_ne_bytes).concat())
            .unwrap();
        assert!(port.take().unwrap(), "{ports:?}");
        assert!(!port.take().unwrap());
    }
    driver.write_all(&8_u32.to_ne_bytes()).unwrap();
    assert!(!port.take().unwrap());
}

#[test]
fn a_sleep_ends_with_an_event_or_when_its_time_is_up() {
    let (port, mut driver) = port_and_driver();
    let (began, most) = (poll::now(), Duration::from_millis(20));
    port.sleep(Some(most)).unwrap();
    assert!(poll::now().since(began) >= most);
    driver.write_all(&7_u32.to_ne_bytes()).unwrap();
    port.sleep(None).unwrap();
    assert!(port.take().unwrap(), "sleeping took nothing");
}

#[test]
fn another_thread_ends_a_sleep() {
    let (port, _driver) = port_and_driver();
    port.wake();
    port.sleep(None).unwrap();
}

#[test]
fn where_xen_does_not_tell_no_one_claims_to_know() {
    let (port, _driver) = port_and_driver();
    assert_eq!(port.is_bound().unwrap(), None);
}

/// The driver of Linux 6.1 does not survive that a port is closed that was lost by a restore.
#[test]
fn fault_c09_the_port_of_an_earlier_life_is_an_error_and_is_never_closed() {
    let is_open = |driver: &mut UnixStream| {
        driver.set_nonblocking(true).unwrap();
        let nothing = driver.read(&mut [0]).map_err(|error| error.kind());
        nothing == Err(std::io::ErrorKind::WouldBlock)
    };
    let (port, mut driver, mut store) = port_driver_and_store();
    store.restore();
    let error = port.is_bound().unwrap_err().to_string();
    assert!(
        error.contains("port 7: this domain was restored"),
        "{error}"
    );
    drop(port);
    assert!(is_open(&mut driver));

    let (port, mut driver, _store) = port_driver_and_store();
    drop(port);
    assert!(!is_open(&mut driver), "in its own life a port is closed");
}

#[test]
fn errors_name_the_port() {
    let (port, _driver) = port_and_driver();
    // A socket takes no such call.
    let error = port.notify().unwrap_err().to_string();
    assert!(error.starts_with("cannot notify port 7: "), "{error}");
}

#[test]
fn each_refusal_to_bind_says_what_to_do() {
    for (errno, what) in [
        (Errno::INVAL, "left over from a server that died"),
        (Errno::SRCH, "left over from a server that died"),
        (Errno::NOSPC, "max_event_channels"),
        (Errno::PERM, "XSM"),
    ] {
        let error = explain(HostError::new("bind").because(errno), errno).to_string();
        assert!(error.contains(what), "{error}");
    }
    let refused = |errno| explain(HostError::new("bind"), errno).is_stale();
    assert!(refused(Errno::INVAL) && !refused(Errno::NOSPC));
}
