//! What can be tested without Xen: numbers, layouts and messages.

use std::format;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::string::{String, ToString};
use std::vec::Vec;

use super::ioctl::Opcode;
use super::life::tests::endless_lives;
use super::*;
use crate::DomId;
use crate::host::{EventChannels, GrantRef, Grants, Port};
use crate::memory::Access;

/// Every call with its C name, the number on 64-bit machines, and ours.
const CALLS: [(&str, u32, Opcode); 9] = [
    (
        "IOCTL_EVTCHN_BIND_INTERDOMAIN",
        0x0008_4501,
        evtchn::calls::numbers::BIND_INTERDOMAIN,
    ),
    (
        "IOCTL_EVTCHN_BIND_UNBOUND_PORT",
        0x0004_4502,
        evtchn::calls::numbers::BIND_UNBOUND_PORT,
    ),
    (
        "IOCTL_EVTCHN_NOTIFY",
        0x0004_4504,
        evtchn::calls::numbers::NOTIFY,
    ),
    (
        "IOCTL_EVTCHN_RESET",
        0x0000_4505,
        evtchn::calls::numbers::RESET,
    ),
    (
        "IOCTL_GNTALLOC_ALLOC_GREF",
        0x0018_4705,
        gntalloc::numbers::ALLOC_GREF,
    ),
    (
        "IOCTL_GNTALLOC_DEALLOC_GREF",
        0x0010_4706,
        gntalloc::numbers::DEALLOC_GREF,
    ),
    (
        "IOCTL_GNTALLOC_SET_UNMAP_NOTIFY",
        0x0010_4707,
        gntalloc::numbers::SET_UNMAP_NOTIFY,
    ),
    (
        "IOCTL_GNTDEV_MAP_GRANT_REF",
        0x0018_4700,
        gntdev::numbers::MAP_GRANT_REF,
    ),
    (
        "IOCTL_GNTDEV_UNMAP_GRANT_REF",
        0x0010_4701,
        gntdev::numbers::UNMAP_GRANT_REF,
    ),
];

#[test]
#[cfg(target_pointer_width = "64")]
fn fault_d07_the_numbers_of_the_calls() {
    for (name, expected, ours) in CALLS {
        assert_eq!(u64::from(ours), u64::from(expected), "{name}");
    }
    assert_eq!(u64::from(privcmd::HYPERCALL), 0x0030_5000);
}

/// Says why a test is skipped, past the capture of the test harness. `cargo xtask test` counts it.
fn skip(why: &str) {
    use std::io::Write;
    // Who does not listen is not told.
    _ = std::writeln!(std::io::stdout(), "SKIPPED: {why}");
}

/// Asks the C compiler, where there is one and the kernel's headers are installed.
#[test]
fn fault_d07_the_numbers_of_the_kernels_headers() {
    let headers = ["xen/evtchn.h", "xen/gntalloc.h", "xen/gntdev.h"];
    let missing = |header: &&str| !PathBuf::from("/usr/include").join(header).exists();
    if let Some(header) = headers.iter().find(|header| missing(header)) {
        return skip(&std::format!(
            "/usr/include/{header} is not installed (linux-libc-dev)"
        ));
    }
    let prints: Vec<String> = CALLS
        .iter()
        .map(|(name, ..)| format!("printf(\"%lu\\n\", (unsigned long){name});"))
        .collect();
    let source = format!(
        "#include <stdio.h>\n#include <stdint.h>\n#include <sys/ioctl.h>\n\
         typedef uint16_t domid_t; typedef uint32_t grant_ref_t;\n\
         #include <xen/evtchn.h>\n#include <xen/gntalloc.h>\n#include <xen/gntdev.h>\n\
         int main(void) {{ {} return 0; }}\n",
        prints.join(" ")
    );
    let directory = Scratch::new("headers");
    fs::write(directory.0.join("numbers.c"), source).unwrap();
    let program = directory.0.join("numbers");
    let mut cc = Command::new("cc");
    cc.current_dir(&directory.0)
        .args(["-o", "numbers", "numbers.c"]);
    match cc.status() {
        Ok(status) => assert!(status.success(), "the headers do not compile"),
        Err(error) => return skip(&std::format!("there is no C compiler: {error}")),
    }
    let output = Command::new(program).output().unwrap().stdout;
    let numbers = String::from_utf8(output).unwrap();
    let ours = CALLS.map(|(_, _, ours)| ours.to_string());
    assert_eq!(numbers.lines().collect::<Vec<_>>(), ours);
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("vchan-xen-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// Places of which none is there.
    fn places(&self) -> Places {
        Places {
            hypervisor_type: self.0.join("type"),
            devices: self.0.join("xen"),
            gntalloc_limit: self.0.join("limit"),
        }
    }

    /// A file that opens like a device and takes no calls.
    fn fake_device(&self, name: &str) -> Device {
        let path = self.0.join(name);
        fs::write(&path, "").unwrap();
        Device::new(path, "fake")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn fault_d06_not_on_xen() {
    let scratch = Scratch::new("no-xen");
    let places = scratch.places();
    for hypervisor in [None, Some("kvm\n"), Some("")] {
        if let Some(name) = hypervisor {
            fs::write(&places.hypervisor_type, name).unwrap();
        }
        let error = std::io::Error::from(places.host().unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        let error = error.to_string();
        assert!(error.contains("this is not a Xen domain"), "{error}");
        assert!(error.contains("emulated host"), "{error}");
    }
}

#[test]
fn fault_d06_on_xen_without_the_drivers() {
    let scratch = Scratch::new("no-drivers");
    let places = scratch.places();
    fs::write(&places.hypervisor_type, "xen\n").unwrap();
    let error = places.host().unwrap_err().to_string();
    assert!(error.contains("xen/evtchn: No such file"), "{error}");
    assert!(error.contains("modprobe xen-evtchn"), "{error}");
    // Without /sys the directory of the devices tells.
    fs::remove_file(&places.hypervisor_type).unwrap();
    fs::create_dir(&places.devices).unwrap();
    let error = places.host().unwrap_err().to_string();
    assert!(error.contains("modprobe xen-evtchn"), "{error}");
}

#[test]
fn fault_d06_each_device_is_missed_only_when_it_is_needed() {
    let scratch = Scratch::new("lazy");
    let missing = |name: &str| Device::new(scratch.0.join(name), "xen-missing");
    let grants = GrantDevices::new(
        missing("gntalloc"),
        missing("gntdev"),
        "limit".into(),
        endless_lives(),
    );
    let peer = DomId::new(2).unwrap();
    let error = grants.share(peer, 1, Access::ReadOnly, None).unwrap_err();
    assert!(
        error.to_string().contains("gntalloc: No such file"),
        "{error}"
    );
    let error = grants
        .map(peer, &[GrantRef(8)], Access::ReadOnly, None)
        .unwrap_err();
    assert!(
        error.to_string().contains("gntdev: No such file"),
        "{error}"
    );
}

#[test]
fn a_device_that_takes_no_calls_gives_errors_that_name_what_was_done() {
    let scratch = Scratch::new("fake");
    let peer = DomId::new(2).unwrap();
    let grants = GrantDevices::new(
        scratch.fake_device("gntalloc"),
        scratch.fake_device("gntdev"),
        "limit".into(),
        endless_lives(),
    );
    let error = grants.share(peer, 3, Access::ReadWrite, None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot share 3 pages with domain 2: "),
        "{error}"
    );
    let references: Vec<GrantRef> = (8..300).map(GrantRef).collect();
    for (count, what) in [
        (1, "grant 8 of domain 2"),
        (3, "3 grants"),
        (257, "at most 256"),
    ] {
        let some = references.get(..count).unwrap();
        let error = grants.map(peer, some, Access::ReadOnly, None).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    let error = grants
        .share(peer, 257, Access::ReadWrite, None)
        .unwrap_err();
    assert!(error.to_string().contains("at most 256"), "{error}");

    let privcmd = Privcmd::new(scratch.fake_device("privcmd"));
    assert!(!privcmd.give_way());
    assert_eq!(privcmd.is_bound(Port(1)), None);
    assert_eq!(privcmd.is_bound(Port(1)), None);
    assert!(!privcmd.give_way());
    let ports = PortMaker::new(scratch.fake_device("evtchn"), privcmd, endless_lives());
    let error = ports.bind_unbound(peer).err().unwrap();
    assert!(
        error.to_string().contains("an event channel for domain 2"),
        "{error}"
    );
    let error = ports.bind_interdomain(peer, Port(9)).err().unwrap();
    assert!(error.to_string().contains("port 9 of domain 2"), "{error}");
}
